// What is done to every element of large tensors, in one pass over them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "functions.h"
#include "threads.h"

struct MaskSizes {
  Index outer, middle, inner;
  Index x_outer, x_middle, x_inner;  // strides of what is masked; everything else is dense
  int64_t threads;
  double scale;
};

// out = x * keep * scale.
template <class T>
static void masked_tensor(const MaskSizes& s, const T* x, const uint8_t* keep, T* out) {
  const T scale = T(s.scale);
  divide(s.outer, int(s.threads), [&](Index first, Index rows, Index) {
    for (Index i = first; i < first + rows; i++)
      for (Index j = 0; j < s.middle; j++) {
        const T* from = x + i * s.x_outer + j * s.x_middle;
        const uint8_t* __restrict__ k = keep + (i * s.middle + j) * s.inner;
        T* __restrict__ to = out + (i * s.middle + j) * s.inner;
        if (s.x_inner == 1)
          for (Index l = 0; l < s.inner; l++) to[l] = T(k[l]) * from[l] * scale;
        else
          for (Index l = 0; l < s.inner; l++) to[l] = T(k[l]) * from[l * s.x_inner] * scale;
      }
  });
}

struct PoissonSizes {
  Index trials, size;  // elements of a trial
  int64_t stirling, threads;
};

// Stirling's formula for log k!, which is looked up where k is a small whole number.
template <class T>
class LogFactorial {
 public:
  LogFactorial() {
    for (int k = 1; k < SIZE; k++) table_[k] = formula(T(k));
  }
  T operator()(T k) const {
    return k < SIZE && k == T(int(k)) ? table_[int(k)] : formula(k);
  }

 private:
  static const int SIZE = 64;
  static T formula(T k) { return k * std::log(k) - k + T(0.5) * std::log(T(2 * M_PI) * k); }
  T table_[SIZE] = {};
};

// losses = exp(x) - k x, plus log k! where k > 1 if that is wanted.
template <class T>
static void poisson_losses(const PoissonSizes& s, const T* log_rates, const T* counts, T* losses) {
  const Index group = 64;  // are looked at together for counts above 1, of which there are few
  const LogFactorial<T> log_factorial;
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index) {
    const Index end = (first + trials) * s.size;
    for (Index i = first * s.size; i < end; i += group) {
      const Index n = std::min(group, end - i);
      const T *x = log_rates + i, *k = counts + i;
      T* __restrict__ loss = losses + i;
      int above = 0;
      for (Index j = 0; j < n; j++) {
        loss[j] = exponential(x[j]) - k[j] * x[j];
        above |= k[j] > 1;
      }
      if (!s.stirling || !above) continue;
      for (Index j = 0; j < n; j++)
        if (k[j] > 1) loss[j] += log_factorial(k[j]);
    }
  });
}

// grads = (exp(x) - k) * outer.
template <class T>
static void poisson_gradient(const PoissonSizes& s, const T* log_rates, const T* counts,
                             const T* outer, T* grads) {
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index) {
    const Index start = first * s.size, n = trials * s.size;
    const T *x = log_rates + start, *k = counts + start, *g = outer + start;
    T* __restrict__ to = grads + start;
    for (Index j = 0; j < n; j++) to[j] = (exponential(x[j]) - k[j]) * g[j];
  });
}

// Sums over trials of k and of exp(x) - k x, each (samples). Sixteen trials are added up, and then
// these sums, which loses less to rounding than to add one trial after the other.
template <class T>
static void poisson_sums(const PoissonSizes& s, const T* log_rates, const T* counts, T* sum_counts,
                         T* sum_losses) {
  const Index width = 512, group = 16;
  divide((s.size + width - 1) / width, int(s.threads), [&](Index first, Index blocks, Index) {
    for (Index block = first; block < first + blocks; block++) {
      const Index start = block * width, n = std::min(width, s.size - start);
      T *all_counts = sum_counts + start, *all_losses = sum_losses + start;
      std::fill(all_counts, all_counts + n, T(0));
      std::fill(all_losses, all_losses + n, T(0));
      for (Index b = 0; b < s.trials; b += group) {
        T some_counts[width] = {}, some_losses[width] = {};
        for (Index i = b; i < std::min(b + group, s.trials); i++) {
          const T *x = log_rates + i * s.size + start, *k = counts + i * s.size + start;
          for (Index j = 0; j < n; j++) {
            some_counts[j] += k[j];
            some_losses[j] += exponential(x[j]) - k[j] * x[j];
          }
        }
        for (Index j = 0; j < n; j++) {
          all_counts[j] += some_counts[j];
          all_losses[j] += some_losses[j];
        }
      }
    }
  });
}
