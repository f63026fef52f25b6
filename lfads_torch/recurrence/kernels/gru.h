// A gated recurrent unit over time.
#pragma once

#include <algorithm>
#include <cstring>
#include "threads.h"
#include "unit.h"

struct GRUSizes {
  Index trials, bins, inputs, units;
  Index input_trial, input_bin;  // strides of the inputs (B, T, D)
  Index grad_bin, grad_trial;    // strides of the gradient of the states (T, B, H)
  int64_t reverse, clips, threads;
  double clip;
};

// Inputs without their zeros: those of trial b in bin t are from first[t B + b] to
// first[t B + b + 1] of `value`, and come from the channels in `index`.
template <class T>
struct Sparse {
  const int32_t *first, *index;
  const T* value;
};

// Writes where the inputs of every trial and bin begin once zeros are left out; returns how many
// inputs are not zero.
template <class T>
static Index count_inputs(const GRUSizes& s, const T* inputs, int32_t* first) {
  divide(s.trials, int(s.threads), [&](Index from, Index rows, Index) {
    for (Index t = 0; t < s.bins; t++)
      for (Index b = from; b < from + rows; b++) {
        const T* row = inputs + b * s.input_trial + t * s.input_bin;
        int32_t count = 0;
        for (Index j = 0; j < s.inputs; j++) count += row[j] != 0;
        first[t * s.trials + b + 1] = count;
      }
  });
  Index total = first[0] = 0;
  for (Index i = 1; i <= s.trials * s.bins; i++) first[i] = int32_t(total += first[i]);
  return total;
}

// Writes the inputs that are not zero, and their channels.
template <class T>
static void compress_inputs(const GRUSizes& s, const T* inputs, const int32_t* first,
                            int32_t* index, T* value) {
  const Index group = 8;  // channels that are tested together, because mostly all of them are zero
  divide(s.trials, int(s.threads), [&](Index from, Index rows, Index) {
    for (Index t = 0; t < s.bins; t++)
      for (Index b = from; b < from + rows; b++) {
        const T* row = inputs + b * s.input_trial + t * s.input_bin;
        Index at = first[t * s.trials + b];
        for (Index j = 0; j < s.inputs; j += group) {
          const Index end = std::min(j + group, s.inputs);
          int any = 0;
          if (end - j == group)
            for (Index k = 0; k < group; k++) any |= row[j + k] != 0;
          else
            any = 1;
          if (!any) continue;
          for (Index k = j; k < end; k++)
            if (row[k] != 0) {
              index[at] = int32_t(k);
              value[at++] = row[k];
            }
        }
      }
  });
}

// Writes the states after the initial one, and the gates if these are not null.
template <class T>
static void gru_forward(const GRUSizes& s, const T* inputs, const T* weight_ih, const T* weight_hh,
                        const T* bias, const Sparse<T>& sparse, T* states, T* gates) {
  const Index h = s.units, d = s.inputs, b = s.trials;
  const Unit<T> unit(h, weight_hh, bias, s.clips != 0, s.clip);
  const PackedMatrix<T> projection(sparse.first ? 0 : d, 3 * h, weight_ih, d, true);
  const Index ld = (3 * h + Vector<T>::size - 1) / Vector<T>::size * Vector<T>::size;
  Array<T> by_input;
  if (sparse.first) by_input = transpose(weight_ih, 3 * h, d, d, Vector<T>::size);
  divide(b, int(s.threads), [&](Index first, Index rows, Index) {
    Scratch scratch;
    T* reset = scratch.take<T>(rows * h);
    T* buffer = gates ? nullptr : scratch.take<T>(rows * 3 * h);
    for (Index k = 0; k < s.bins; k++) {
      const Index t = s.reverse ? s.bins - 1 - k : k;
      const T* x = inputs + first * s.input_trial + t * s.input_bin;
      T* g = gates ? gates + (t * b + first) * 3 * h : buffer;
      if (sparse.first)
        for (Index i = 0; i < rows; i++) {
          const int32_t* at = sparse.first + t * b + first + i;
          gather(by_input.data(), ld, sparse.index + at[0], sparse.value + at[0], at[1] - at[0],
                 g + i * 3 * h, 3 * h);
        }
      else
        projection.multiply(rows, x, s.input_trial, false, g, 3 * h);
      const T* before = states + ((s.reverse ? t + 1 : t) * b + first) * h;
      T* after = states + ((s.reverse ? t : t + 1) * b + first) * h;
      unit.step(rows, g, before, after, reset);
    }
  });
}

// `carry` holds the gradient of the state that was computed last, and then that of the initial
// state. Gradients of states and of inputs may be null.
template <class T>
static void gru_backward(const GRUSizes& s, const T* inputs, const T* weight_ih, const T* weight_hh,
                         const Sparse<T>& sparse, const T* states, const T* gates,
                         const T* grad_states, T* carry, T* grad_inputs, T* grad_ih, T* grad_hh,
                         T* grad_bias) {
  const Index h = s.units, d = s.inputs, b = s.trials;
  const Unit<T> unit(h, weight_hh, nullptr, s.clips != 0, s.clip);
  const PackedMatrix<T> to_inputs(grad_inputs ? 3 * h : 0, d, weight_ih, d, false);
  const Index chunks = n_chunks(b, int(s.threads));
  Sums<T> sums_ih(chunks, 3 * h * d), sums_hh(chunks, 3 * h * h), sums_bias(chunks, 3 * h);
  divide(b, int(s.threads), [&](Index first, Index rows, Index chunk) {
    Scratch scratch;
    const Index slots = std::max<Index>(1, std::min(s.bins, ROWS / rows));
    T* chunk_ih = sums_ih.of(chunk);  // (D, 3H), the transpose, where inputs are without zeros
    T* chunk_hh = sums_hh.of(chunk);
    T* chunk_bias = sums_bias.of(chunk);
    T* grads = scratch.take<T>(slots * rows * 3 * h);
    T* olds = scratch.take<T>(slots * rows * h);
    T* resets = scratch.take<T>(slots * rows * h);
    T* dense = sparse.first ? nullptr : scratch.take<T>(slots * rows * d);
    T* grad_reset = scratch.take<T>(rows * h);
    T* strip_carry = carry + first * h;
    Index slot = 0;
    for (Index k = s.bins - 1; k >= 0; k--) {
      const Index t = s.reverse ? s.bins - 1 - k : k;
      const T* x = inputs + first * s.input_trial + t * s.input_bin;
      const T* g = gates + (t * b + first) * 3 * h;
      const T* before = states + ((s.reverse ? t + 1 : t) * b + first) * h;
      T* dg = grads + slot * rows * 3 * h;
      if (grad_states)
        add_rows(rows, h, grad_states + t * s.grad_bin + first * s.grad_trial, s.grad_trial,
                 strip_carry);
      unit.back(rows, g, before, strip_carry, dg, olds + slot * rows * h, resets + slot * rows * h,
                grad_reset, chunk_bias);
      if (sparse.first)
        for (Index i = 0; i < rows; i++) {
          const int32_t* at = sparse.first + t * b + first + i;
          scatter(chunk_ih, 3 * h, sparse.index + at[0], sparse.value + at[0], at[1] - at[0],
                  dg + i * 3 * h, 3 * h);
        }
      else
        copy_rows(rows, d, x, s.input_trial, dense + slot * rows * d, d);
      if (grad_inputs)
        to_inputs.multiply(rows, dg, 3 * h, false, grad_inputs + (first * s.bins + t) * d,
                           s.bins * d);
      if (++slot == slots || k == 0) {
        unit.weight_gradient(slot * rows, grads, olds, resets, chunk_hh);
        if (!sparse.first)
          add_transposed_product(3 * h, d, slot * rows, grads, 3 * h, dense, d, chunk_ih, d);
        slot = 0;
      }
    }
  });
  sums_hh.add_up(grad_hh);
  sums_bias.add_up(grad_bias);
  if (!sparse.first) return sums_ih.add_up(grad_ih);
  Array<T> by_input(size_t(3 * h * d));
  sums_ih.add_up(by_input.data());
  for (Index i = 0; i < 3 * h; i++)
    for (Index j = 0; j < d; j++) grad_ih[i * d + j] = by_input[size_t(j * 3 * h + i)];
}
