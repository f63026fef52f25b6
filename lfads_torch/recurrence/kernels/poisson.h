// The Poisson likelihood of counts k with log rates x, in one pass over them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "functions.h"
#include "threads.h"

struct PoissonSizes {
  Index trials, size;  // size: elements of a trial
  int64_t stirling, threads;
};

// Stirling's formula for log k!, read from a table where k is a small integer.
template <class T>
class LogFactorial {
 public:
  LogFactorial() {
    for (int k = 1; k < SIZE; k++) table_[k] = formula(T(k));
  }
  T operator()(T k) const { return k < SIZE && k == T(int(k)) ? table_[int(k)] : formula(k); }

 private:
  static const int SIZE = 64;
  static T formula(T k) { return k * std::log(k) - k + T(0.5) * std::log(T(2 * M_PI) * k); }
  T table_[SIZE] = {};
};

// losses = exp(x) - k x, plus log k! where k > 1 if `stirling` is set.
template <class T>
static void poisson_losses(const PoissonSizes& s, const T* log_rates, const T* counts, T* losses) {
  const Index group = 64;  // elements that are searched together for counts above 1, which are rare
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

// result = (exp(x) - k) * grad, for the gradient of the losses.
template <class T>
static void poisson_gradient(const PoissonSizes& s, const T* log_rates, const T* counts,
                             const T* grad, T* result) {
  divide(s.trials, int(s.threads), [&](Index first, Index trials, Index) {
    const Index start = first * s.size, n = trials * s.size;
    const T *x = log_rates + start, *k = counts + start, *g = grad + start;
    T* __restrict__ to = result + start;
    for (Index j = 0; j < n; j++) to[j] = (exponential(x[j]) - k[j]) * g[j];
  });
}

// Sums over trials of k and of exp(x) - k x, each of the size of a trial. Trials are added up in
// groups of sixteen, and then the groups, which causes a smaller rounding error than adding one
// trial after the other.
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
