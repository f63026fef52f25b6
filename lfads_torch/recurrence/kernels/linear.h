// Linear maps, such as that from the factors to the log rates.
#pragma once

#include <algorithm>
#include "functions.h"
#include "threads.h"

struct RatesSizes {
  Index trials, samples, bins, factors, channels;
  Index row, bin;  // strides of the factors (trials * samples, T, F)
  int64_t threads;
};

// rates (trials, T, N): the mean over samples of exp(W f + b).
template <class T>
static void mean_rates(const RatesSizes& s, const T* factors, const T* weight, const T* bias,
                       T* rates) {
  const Index n = s.channels;
  const PackedMatrix<T> packed(s.factors, n, weight, s.factors, true);
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index) {
    Scratch scratch;
    T* logs = scratch.take<T>(STRIP * n);
    for (Index trial = first; trial < first + trials; trial++)
      for (Index t = 0; t < s.bins; t++) {
        T* __restrict__ mean = rates + (trial * s.bins + t) * n;
        std::fill(mean, mean + n, T(0));
        for (Index sample = 0; sample < s.samples; sample += STRIP) {
          const Index rows = std::min(STRIP, s.samples - sample);
          packed.multiply(rows, factors + (trial * s.samples + sample) * s.row + t * s.bin, s.row,
                          false, logs, n);
          for (Index i = 0; i < rows; i++) {
            const T* __restrict__ row = logs + i * n;
            for (Index j = 0; j < n; j++) mean[j] += exponential(row[j] + bias[j]);
          }
        }
        for (Index j = 0; j < n; j++) mean[j] /= T(s.samples);
      }
  });
}

struct LinearSizes {
  Index trials, bins, inputs, outputs;
  Index x_trial, x_bin, grad_trial, grad_bin;  // strides of the inputs (B, T, D), of their gradient
  int64_t threads;
};

// y (B, T, N) = W x + b.
template <class T>
static void linear_forward(const LinearSizes& s, const T* x, const T* weight, const T* bias, T* y) {
  const Index n = s.outputs;
  const PackedMatrix<T> packed(s.inputs, n, weight, s.inputs, true);
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index) {
    for (Index trial = first; trial < first + trials; trial++) {
      T* out = y + trial * s.bins * n;
      packed.multiply(s.bins, x + trial * s.x_trial, s.x_bin, false, out, n);
      for (Index t = 0; t < s.bins; t++) {
        T* __restrict__ row = out + t * n;
        for (Index j = 0; j < n; j++) row[j] += bias[j];
      }
    }
  });
}

// The gradients of x, W and b, given that of y (B, T, N), which is dense. Those that are null are
// left out; W and b go together.
template <class T>
static void linear_backward(const LinearSizes& s, const T* x, const T* weight, const T* grad,
                            T* grad_x, T* grad_weight, T* grad_bias) {
  const Index n = s.outputs, d = s.inputs;
  const PackedMatrix<T> to_inputs(grad_x ? n : 0, d, weight, d, false);
  const Index chunks = n_chunks(s.trials, int(s.threads));
  Sums<T> sums_weight(chunks, n * d), sums_bias(chunks, n);
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index chunk) {
    Scratch scratch;
    T* dense = scratch.take<T>(s.bins * d);
    T* chunk_weight = grad_weight ? sums_weight.of(chunk) : nullptr;
    T* chunk_bias = grad_weight ? sums_bias.of(chunk) : nullptr;
    for (Index trial = first; trial < first + trials; trial++) {
      const T* g = grad + trial * s.bins * n;
      if (grad_x)
        to_inputs.multiply(s.bins, g, n, false, grad_x + trial * s.grad_trial, s.grad_bin);
      if (!grad_weight) continue;
      copy_rows(s.bins, d, x + trial * s.x_trial, s.x_bin, dense, d);
      add_transposed_product(n, d, s.bins, g, n, dense, d, chunk_weight, d);
      for (Index t = 0; t < s.bins; t++)
        for (Index j = 0; j < n; j++) chunk_bias[j] += g[t * n + j];
    }
  });
  if (!grad_weight) return;
  sums_weight.add_up(grad_weight);
  sums_bias.add_up(grad_bias);
}
