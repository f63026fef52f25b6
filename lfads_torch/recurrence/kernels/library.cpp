// The functions of the library. It computes what pytorch.py computes, but does the work between two
// matrix products in one pass over rows that are still in the cache, and divides trials among
// threads.
//
// All sequences are (T, B, ...), except those whose strides are given. Gates are stacked in the
// order z (update), r (reset), n (candidate). On processors with AVX2 or AVX-512 matrix products
// are those of matrices.h; elsewhere those of the BLAS library that PyTorch uses, whose addresses
// lfads_start takes.

#include "decoder.h"
#include "gru.h"
#include "linear.h"
#include "poisson.h"

extern "C" {

int lfads_needs_blas() { return USES_BLAS; }

void lfads_start(Sgemm s, Dgemm d, SetThreads threads) {
  sgemm = s;
  dgemm = d;
  set_threads = threads;
}

int lfads_threaded() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

// Sizes of the structures, which Python compares with its own.
#define SIZE_OF(NAME, TYPE) \
  int64_t lfads_sizeof_##NAME() { return sizeof(TYPE); }
SIZE_OF(GRUSizes, GRUSizes)
SIZE_OF(DecoderSizes, DecoderSizes)
SIZE_OF(DecoderArrays, DecoderArrays<float>)
SIZE_OF(DecoderGradients, DecoderGradients<float>)
SIZE_OF(RatesSizes, RatesSizes)
SIZE_OF(LinearSizes, LinearSizes)
SIZE_OF(PoissonSizes, PoissonSizes)

// The functions for one type of numbers.
#define FOR(TYPE, NAME)                                                                            \
  void lfads_count_inputs_##NAME(const GRUSizes* s, const TYPE* inputs, int32_t* first,            \
                                 int64_t* total) {                                                 \
    *total = count_inputs<TYPE>(*s, inputs, first);                                                \
  }                                                                                                \
  void lfads_compress_inputs_##NAME(const GRUSizes* s, const TYPE* inputs, const int32_t* first,   \
                                    int32_t* index, TYPE* value) {                                 \
    compress_inputs<TYPE>(*s, inputs, first, index, value);                                        \
  }                                                                                                \
  void lfads_gru_forward_##NAME(const GRUSizes* s, const TYPE* inputs, const TYPE* weight_ih,      \
                                const TYPE* weight_hh, const TYPE* bias, const int32_t* first,     \
                                const int32_t* index, const TYPE* value, TYPE* states,             \
                                TYPE* gates) {                                                     \
    gru_forward<TYPE>(*s, inputs, weight_ih, weight_hh, bias, {first, index, value}, states,       \
                      gates);                                                                      \
  }                                                                                                \
  void lfads_gru_backward_##NAME(                                                                  \
      const GRUSizes* s, const TYPE* inputs, const TYPE* weight_ih, const TYPE* weight_hh,         \
      const int32_t* first, const int32_t* index, const TYPE* value, const TYPE* states,           \
      const TYPE* gates, const TYPE* grad_states, TYPE* carry, TYPE* grad_inputs, TYPE* grad_ih,   \
      TYPE* grad_hh, TYPE* grad_bias) {                                                            \
    gru_backward<TYPE>(*s, inputs, weight_ih, weight_hh, {first, index, value}, states, gates,     \
                       grad_states, carry, grad_inputs, grad_ih, grad_hh, grad_bias);              \
  }                                                                                                \
  void lfads_decoder_forward_##NAME(const DecoderSizes* s, const DecoderArrays<TYPE>* a) {         \
    decoder_forward<TYPE>(*s, *a);                                                                 \
  }                                                                                                \
  void lfads_decoder_backward_##NAME(const DecoderSizes* s, const DecoderArrays<TYPE>* a,          \
                                     const DecoderGradients<TYPE>* d) {                            \
    decoder_backward<TYPE>(*s, *a, *d);                                                            \
  }                                                                                                \
  void lfads_mean_rates_##NAME(const RatesSizes* s, const TYPE* factors, const TYPE* weight,       \
                               const TYPE* bias, TYPE* rates) {                                    \
    mean_rates<TYPE>(*s, factors, weight, bias, rates);                                            \
  }                                                                                                \
  void lfads_linear_forward_##NAME(const LinearSizes* s, const TYPE* x, const TYPE* weight,        \
                                   const TYPE* bias, TYPE* y) {                                    \
    linear_forward<TYPE>(*s, x, weight, bias, y);                                                  \
  }                                                                                                \
  void lfads_linear_backward_##NAME(const LinearSizes* s, const TYPE* x, const TYPE* weight,       \
                                    const TYPE* grad, TYPE* grad_x, TYPE* grad_weight,             \
                                    TYPE* grad_bias) {                                             \
    linear_backward<TYPE>(*s, x, weight, grad, grad_x, grad_weight, grad_bias);                    \
  }                                                                                                \
  void lfads_poisson_losses_##NAME(const PoissonSizes* s, const TYPE* log_rates,                   \
                                   const TYPE* counts, TYPE* losses) {                             \
    poisson_losses<TYPE>(*s, log_rates, counts, losses);                                           \
  }                                                                                                \
  void lfads_poisson_gradient_##NAME(const PoissonSizes* s, const TYPE* log_rates,                 \
                                     const TYPE* counts, const TYPE* grad, TYPE* result) {         \
    poisson_gradient<TYPE>(*s, log_rates, counts, grad, result);                                   \
  }                                                                                                \
  void lfads_poisson_sums_##NAME(const PoissonSizes* s, const TYPE* log_rates, const TYPE* counts, \
                                 TYPE* sum_counts, TYPE* sum_losses) {                             \
    poisson_sums<TYPE>(*s, log_rates, counts, sum_counts, sum_losses);                             \
  }

FOR(float, float)
FOR(double, double)
}
