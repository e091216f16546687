// Products of few rows with quantized weights, in integers.
//
// Weights are 4 or 8 bits wide, and making a float32 of each took longer than reading them.
// So the numbers of x in a block become integers of 16 bits, in steps of 1 / 32767 of its
// largest: finer than float16 or bfloat16 for all that counts in a sum. Their products and
// the sum of a word are exact. `numbers * scale + bias` is a weight; a bias counts as often
// as the sum of x, which is float32.

#pragma once

#include <cmath>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "stored_weights.h"

namespace stored {

typedef int16_t shorts __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

// The products of the halves of each word, and their sum.
inline integers multiply_add(shorts a, shorts b) {
#ifdef __AVX2__
  return (integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
  const integers x = (integers)a, y = (integers)b;
  return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

// Where the parts of a prepared row begin, in numbers of 32 bits: first the integers, then
// each block's step, then the sum of each word's part of x.
template <long BITS>
struct Places {
  long steps, sums, end;
  explicit Places(const Quantized<BITS>& form)
      : steps(form.dim / 2), sums(steps + form.dim / Quantized<BITS>::BLOCK),
        end(sums + form.dim / Quantized<BITS>::PER_WORD) {}
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
      for (long j = 0; j < WIDTH; j++) {
        float sum = 0;
        for (long k = 0; k < Form::PER_WORD; k++) sum += x[j * Form::PER_WORD + k];
        to[places.sums + c / Form::PER_WORD + j] = sum;
      }
    }
  return out;
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
  for (long c = 0; c < form.dim; c += Form::BLOCK)
    for (long o = 0; o < OUT; o++) {
      const auto block = form.open(row + o, c);
      shorts weights[HALF];
      for (long k = 0; k < HALF; k++)
        weights[k] = (shorts)(block.packed >> (BITS * k) & Form::LOW);
#pragma GCC unroll 8
      for (long r = 0; r < R; r++) {
        const float* row_of_x = x + r * ldx;
        const int16_t* numbers = reinterpret_cast<const int16_t*>(row_of_x) + c;
        integers part = {};
        for (long k = 0; k < HALF; k++)
          part += multiply_add(
              weights[k], *reinterpret_cast<const shorts*>(numbers + k * HALVES));
        const float step = row_of_x[places.steps + c / Form::BLOCK];
        sums[o][r] = add_product(sums[o][r], __builtin_convertvector(part, vec),
                                 block.scale * step);
        sums[o][r] = add_product(sums[o][r], block.bias,
                                 at(row_of_x + places.sums + c / Form::PER_WORD));
      }
    }
  for (long r = 0; r < R; r++)
    for (long o = 0; o < OUT; o++) out[r * ldo + o] = sum(sums[o][r]);
}

}  // namespace stored
