// Products of few rows with quantized weights, in integers.
//
// Weights are 4 or 8 bits wide, and making a float32 of each took longer than reading them.
// So the numbers of x in a block become integers of 16 bits, in steps of 1 / 32767 of its
// largest: finer than float16 or bfloat16 for all that counts in a sum. Their products and
// the sum of a word are exact. `numbers * scale + bias` is a weight; a group's bias counts as
// often as the sum of x there, which is float32.

#pragma once

#include <cmath>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "float_product.h"

namespace stored {

typedef int16_t shorts __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

// total, and the products of the halves of each word.
inline integers multiply_add(integers total, shorts a, shorts b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return (integers)_mm256_dpwssd_epi32((__m256i)total, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
  return total + (integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
  const integers x = (integers)a, y = (integers)b;
  return total + (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

// Where the parts of a prepared row begin, in numbers of 32 bits: first the integers, then
// each block's step, then the sum of each group of x.
template <long BITS>
struct Places {
  long steps, sums, end;
  explicit Places(const Quantized<BITS>& form)
      : steps(form.dim / 2), sums(steps + form.dim / Quantized<BITS>::BLOCK),
        end(sums + form.groups) {}
};

template <long BITS>
inline long pitch(const Quantized<BITS>& form) {
  return (Places<BITS>(form).end + 15) / 16 * 16;
}

template <long BITS>
inline Buffer prepared(const Quantized<BITS>& form, const float* x, long rows) {
  using Form = Quantized<BITS>;
  constexpr long HALF = 16 / BITS, HALVES = 2 * WIDTH;  // numbers in one; of a block
  const Places<BITS> places(form);
  Buffer out(rows * pitch(form));
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < form.dim; c += Form::BLOCK, x += Form::BLOCK) {
      float* to = &out[r * pitch(form)];
      float top = 0;
      for (long i = 0; i < Form::BLOCK; i++) top = std::max(top, std::fabs(x[i]));
      to[places.steps + c / Form::BLOCK] = top / 32767;
      const float inverse = top > 0 ? 32767 / top : 0;
      int16_t* integers = reinterpret_cast<int16_t*>(to) + c;
      for (long k = 0; k < HALF; k++)
        for (long h = 0; h < HALVES; h++) {
          const float number = x[h * HALF + k] * inverse;
          // One that is not finite shows in the sums.
          integers[k * HALVES + h] = std::fabs(number) <= 32768 ? std::lrint(number) : 0;
        }
      for (long i = 0; i < Form::BLOCK; i++)
        to[places.sums + ((c + i) >> form.shift)] += x[i];
    }
  return out;
}

// What a row's biases (groups) add. Not inlined: everywhere summed in the same order.
__attribute__((noinline)) inline float of_biases(const float* biases, const float* sums,
                                                 long groups) {
  float total = 0;
  for (long g = 0; g < groups; g++) total += biases[g] * sums[g];
  return total;
}

// As the other `tile`.
template <long R, long OUT, long BITS>
inline void tile(const Quantized<BITS>& form, long row, const float* x, float* out,
                 long ldo) {
  using Form = Quantized<BITS>;
  constexpr long HALF = 16 / BITS, HALVES = 2 * WIDTH;
  const Places<BITS> places(form);
  const long ldx = pitch(form);
  vec sums[OUT][R] = {};
  Ahead ahead(form, row, OUT);
  for (long c = 0; c < form.dim; c += Form::BLOCK) {
    ahead.fetch(OUT * sizeof(words));
    for (long o = 0; o < OUT; o++) {
      const auto packed = words_at(form.row(row + o) + c / Form::PER_WORD);
      const vec scale = form.of_halves(form.scales + (row + o) * form.groups, c);
      shorts weights[HALF];
      for (long k = 0; k < HALF; k++)
        weights[k] = (shorts)(packed >> (BITS * k) & Form::LOW);
#pragma GCC unroll 8
      for (long r = 0; r < R; r++) {
        const float* row_of_x = x + r * ldx;
        const int16_t* numbers = reinterpret_cast<const int16_t*>(row_of_x) + c;
        integers part = {};
        for (long k = 0; k < HALF; k++)
          part = multiply_add(
              part, weights[k], *reinterpret_cast<const shorts*>(numbers + k * HALVES));
        const float step = row_of_x[places.steps + c / Form::BLOCK];
        sums[o][r] = add_product(sums[o][r], __builtin_convertvector(part, vec),
                                 scale * step);
      }
    }
  }
  for (long r = 0; r < R; r++)
    for (long o = 0; o < OUT; o++)
      out[r * ldo + o] = sum(sums[o][r]) + of_biases(form.biases + (row + o) * form.groups,
                                                     x + r * ldx + places.sums,
                                                     form.groups);
}

}  // namespace stored
