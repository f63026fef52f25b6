// One bin of a gated recurrent unit, forward and backward; docs/recurrence.md derives the
// equations.
#pragma once

#include <algorithm>
#include "functions.h"
#include "matrices.h"

// Number of trials whose bin is computed at a time, so few that it stays in the nearest cache.
static const Index BLOCK = 2 * TILE_ROWS;

// A unit's weights, packed; all threads share them.
template <class T>
struct Unit {
  Index size;
  const T* bias;                    // (3H)
  PackedMatrix<T> to_zr, to_n;      // (H, 2H), (H, H)
  PackedMatrix<T> from_zr, from_n;  // (2H, H), (H, H)
  bool clips;
  T clip;
  // Packs the weights for the forward pass if there is a bias, otherwise for the backward pass.
  Unit(Index size, const T* weight, const T* bias, bool clips, double clip)
      : size(size), bias(bias), clips(clips), clip(T(clip)) {
    const T* weight_n = weight + 2 * size * size;
    if (bias) {
      to_zr = PackedMatrix<T>(size, 2 * size, weight, size, true);
      to_n = PackedMatrix<T>(size, size, weight_n, size, true);
    } else {
      from_zr = PackedMatrix<T>(2 * size, size, weight, size, false);
      from_n = PackedMatrix<T>(size, size, weight_n, size, false);
    }
  }

  // Turns projected inputs without bias into gates (rows, 3H), and writes the states after the bin.
  void step(Index rows, T* gates, const T* before, T* after, T* reset) const {
    const Index h = size, block = USES_BLAS ? rows : BLOCK;
    for (Index i = 0; i < rows; i += block)
      step_block(std::min(block, rows - i), gates + i * 3 * h, before + i * h, after + i * h,
                 reset);
  }

  // Replaces the gradient of the state after a bin (rows, H) in `carry` by that of the previous
  // state, and writes the gradients of the gates. Also copies the previous state, and its product
  // with the reset gate, to rows that `weight_gradient` reads.
  void back(Index rows, const T* gates, const T* before, T* carry, T* grads, T* states, T* resets,
            T* grad_reset, T* grad_bias) const {
    const Index h = size, block = USES_BLAS ? rows : BLOCK;
    for (Index i = 0; i < rows; i += block)
      back_block(std::min(block, rows - i), gates + i * 3 * h, before + i * h, carry + i * h,
                 grads + i * 3 * h, states + i * h, resets + i * h, grad_reset, grad_bias);
  }

  // Adds to the gradient of the recurrent weights, given collected rows of `back`.
  void weight_gradient(Index rows, const T* grads, const T* states, const T* resets,
                       T* grad_weight) const {
    const Index h = size;
    add_transposed_product(2 * h, h, rows, grads, 3 * h, states, h, grad_weight, h);
    add_transposed_product(h, h, rows, grads + 2 * h, 3 * h, resets, h, grad_weight + 2 * h * h, h);
  }

 private:
  void step_block(Index rows, T* gates, const T* before, T* after, T* reset) const {
    const Index h = size;
    to_zr.multiply(rows, before, h, true, gates, 3 * h);
    for (Index i = 0; i < rows; i++) {
      T* __restrict__ zr = gates + i * 3 * h;
      const T *r = zr + h, *old = before + i * h;
      T* __restrict__ out = reset + i * h;
      for (Index j = 0; j < 2 * h; j++) zr[j] = sigmoid(zr[j] + bias[j]);
      for (Index j = 0; j < h; j++) out[j] = r[j] * old[j];
    }
    to_n.multiply(rows, reset, h, true, gates + 2 * h, 3 * h);
    for (Index i = 0; i < rows; i++) {
      const T *z = gates + i * 3 * h, *old = before + i * h, *b = bias + 2 * h;
      T* __restrict__ n = gates + i * 3 * h + 2 * h;
      T* __restrict__ out = after + i * h;
#pragma GCC ivdep
      for (Index j = 0; j < h; j++) {
        const T value = hyperbolic_tangent(n[j] + b[j]);
        n[j] = value;
        out[j] = value + z[j] * (old[j] - value);
      }
      if (clips)
        for (Index j = 0; j < h; j++) out[j] = std::min(std::max(out[j], -clip), clip);
    }
  }

  void back_block(Index rows, const T* gates, const T* before, T* carry, T* grads, T* states,
                  T* resets, T* grad_reset, T* grad_bias) const {
    const Index h = size;
    for (Index i = 0; i < rows; i++) {
      const T *z = gates + i * 3 * h, *r = z + h, *n = r + h, *old = before + i * h;
      T *d = carry + i * h, *dz = grads + i * 3 * h, *dn = dz + 2 * h;
      T *state = states + i * h, *reset = resets + i * h;
      T *bias_z = grad_bias, *bias_n = grad_bias + 2 * h;
      if (clips)
        for (Index j = 0; j < h; j++) {
          const T free = n[j] + z[j] * (old[j] - n[j]);
          d[j] = free > clip || free < -clip ? T(0) : d[j];
        }
#pragma GCC ivdep
      for (Index j = 0; j < h; j++) {
        const T rest = d[j] * (1 - z[j]);
        const T to_z = rest * z[j] * (old[j] - n[j]), to_n = rest * (1 - n[j] * n[j]);
        dz[j] = to_z;
        dn[j] = to_n;
        bias_z[j] += to_z;
        bias_n[j] += to_n;
        d[j] *= z[j];
        state[j] = old[j];
        reset[j] = r[j] * old[j];
      }
    }
    from_n.multiply(rows, grads + 2 * h, 3 * h, false, grad_reset, h);
    for (Index i = 0; i < rows; i++) {
      const T *r = gates + i * 3 * h + h, *reset = resets + i * h, *from = grad_reset + i * h;
      T *d = carry + i * h, *dr = grads + i * 3 * h + h, *bias_r = grad_bias + h;
#pragma GCC ivdep
      for (Index j = 0; j < h; j++) {
        const T to_r = from[j] * reset[j] * (1 - r[j]);
        dr[j] = to_r;
        bias_r[j] += to_r;
        d[j] += from[j] * r[j];
      }
    }
    from_zr.multiply(rows, grads, 3 * h, true, carry, h);
  }
};
