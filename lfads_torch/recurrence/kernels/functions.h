// Nonlinearities, written so that compilers vectorise loops over them.
#pragma once

#include <cmath>
#include <cstdint>

// exp(r) - 1 for |r| <= ln(2) / 2: its series up to r^7, whose error is below 1e-8 relative.
static inline float small_expm1(float r) {
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  return p * r * r + r;
}

// Writes x as k ln(2) + r, for |x| <= 88; returns r and 2^k. ln(2) is taken in two parts so that
// k ln(2) is subtracted without error (Cody & Waite 1980).
static inline float reduce(float x, float& power) {
  const float k = __builtin_rintf(x * 1.44269504f);
  float r = x - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  const int32_t bits = (int32_t(k < 128.f ? k : 128.f) + 127) << 23;  // This also holds if x is NaN.
  __builtin_memcpy(&power, &bits, sizeof bits);
  return r;
}

// exp(x) for x <= 88.
static inline float bounded_exponential(float x) {
  float power;
  const float r = reduce(x < -87.f ? -87.f : x, power);
  return power * small_expm1(r) + power;
}
static inline float exponential(float x) { return x > 88.f ? HUGE_VALF : bounded_exponential(x); }
static inline double exponential(double x) { return std::exp(x); }

// 1 / x for 1 <= x < 2^126: a first guess from its exponent, with a relative error of up to 0.12,
// and three steps of Newton's method, each of which squares the error. A division takes longer.
static inline float reciprocal(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits = 0x7ef311c7 - bits;
  float y;
  __builtin_memcpy(&y, &bits, sizeof y);
  y += y * (1.f - x * y);
  y += y * (1.f - x * y);
  y += y * (1.f - x * y);
  return y;
}

static inline float sigmoid(float x) {
  return reciprocal(1.f + bounded_exponential(x < -60.f ? 60.f : -x));  // at -60 it is 1e-26
}
static inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// tanh |x| = e / (e + 2). e = exp(2 |x|) - 1 is accurate for small x, too.
static inline float hyperbolic_tangent(float x) {
  float y = 2 * __builtin_fabsf(x);
  y = y > 20.f ? 20.f : y;
  float power;
  const float r = reduce(y, power);
  const float e = power * small_expm1(r) + (power - 1);
  return __builtin_copysignf(e * reciprocal(e + 2), x);
}
static inline double hyperbolic_tangent(double x) { return std::tanh(x); }
