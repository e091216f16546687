// Elementwise functions and softmax, written so that the compiler makes vectors of them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

constexpr long LANES = 16;

// x * Phi(x). erf is a rational function on [-4, 4], within 3e-7; it is 1 outside.
inline float gelu(float x) {
  float z = x * 0.70710678f;
  z = z > 4.0f ? 4.0f : z;
  z = z < -4.0f ? -4.0f : z;
  const float s = z * z;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return 0.5f * x * (1.0f + z * p / q);
}

// e^x for x <= 0, within 2e-7 of the result; 0 below -87.
inline float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = std::floor(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

// x * sigmoid(x), from the side where the exponential cannot overflow.
inline float silu(float x) {
  const float e = exp_negative(x > 0.0f ? -x : x);
  return x * (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

// softmax(scale * x) over n numbers, scale > 0.
inline void softmax(float* x, long n, float scale) {
  // The compiler makes vectors of LANES separate maxima, not of one.
  float tops[LANES], sum = 0;
  std::fill(tops, tops + LANES, x[0]);
  long whole = n / LANES * LANES;
  for (long i = 0; i < whole; i += LANES)
    for (long j = 0; j < LANES; j++) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];
  const float top = std::max(*std::max_element(tops, tops + LANES),
                             whole < n ? *std::max_element(x + whole, x + n) : x[0]);
  for (long i = 0; i < n; i++) x[i] = exp_negative(scale * (x[i] - top));
  for (long i = 0; i < n; i++) sum += x[i];
  const float inverse = 1 / sum;
  for (long i = 0; i < n; i++) x[i] *= inverse;
}

// x + bias, then GELU if asked, in place: x (rows, dim).
inline void add_bias(float* x, const float* bias, long rows, long dim, bool activate) {
  for (long i = 0; i < rows; i++, x += dim) {
    if (activate)
      for (long c = 0; c < dim; c++) x[c] = gelu(x[c] + bias[c]);
    else
      for (long c = 0; c < dim; c++) x[c] += bias[c];
  }
}
