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

namespace stored::quantized {

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
constexpr long WORDS = 16;  // of a vector
#else
constexpr long WORDS = 8;
#endif

typedef float Values __attribute__((vector_size(4 * WORDS), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * WORDS), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * WORDS)));
typedef int16_t Halves __attribute__((vector_size(4 * WORDS), aligned(4), may_alias));

inline const Values& values_at(const float* x) {
  return *reinterpret_cast<const Values*>(x);
}

inline const Halves& halves_at(const float* x) {
  return *reinterpret_cast<const Halves*>(x);
}

// total, and the products of the halves of each word.
inline Integers multiply_add(Integers total, Halves a, Halves b) {
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
  return (Integers)_mm512_dpwssd_epi32((__m512i)total, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return total + (Integers)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
  const Integers x = (Integers)a, y = (Integers)b;
  return total + (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

// A block of weights is one vector. A vector of halves is one number of each half of its
// words: the lowest, then the next.
template <long BITS>
struct Block {
  static constexpr long PER_HALF = 16 / BITS, HALVES = 2 * WORDS;
  static constexpr long SIZE = PER_HALF * HALVES;  // in weights
  static constexpr uint32_t LOWEST = ((1u << BITS) - 1) * 0x00010001u;
};

// A prepared row: the integers, each block's step, then the sum of each group of x. Where
// these begin, in numbers of 32 bits; of blocks and vectors the last may not be full.
template <long BITS>
struct Places {
  long blocks, steps, sums, end;
  explicit Places(const Quantized<BITS>& form)
      : blocks((form.dim + Block<BITS>::SIZE - 1) / Block<BITS>::SIZE),
        steps(blocks * Block<BITS>::SIZE / 2), sums(steps + blocks),
        end(sums + bfloat16::whole(form.groups, WORDS)) {}
};

}  // namespace stored::quantized

namespace stored {

template <long BITS>
inline long pitch(const Quantized<BITS>& form) {
  return bfloat16::whole(quantized::Places<BITS>(form).end, 16);
}

template <long BITS>
inline Buffer prepared(const Quantized<BITS>& form, const float* x, long rows) {
  using Block = quantized::Block<BITS>;
  const quantized::Places<BITS> places(form);
  const long ldx = pitch(form);
  Buffer out(rows * ldx);
  for (long r = 0; r < rows; r++, x += form.dim)
    for (long b = 0; b < places.blocks; b++) {
      const float* from = x + b * Block::SIZE;
      const long count = std::min(Block::SIZE, form.dim - b * Block::SIZE);
      float* to = &out[r * ldx];
      float top = 0;
      for (long i = 0; i < count; i++) top = std::max(top, std::fabs(from[i]));
      to[places.steps + b] = top / 32767;
      const float inverse = top > 0 ? 32767 / top : 0;
      int16_t* integers = reinterpret_cast<int16_t*>(to) + b * Block::SIZE;
      for (long i = 0; i < count; i++) {
        const float number = from[i] * inverse;
        const long half = i / Block::PER_HALF, k = i % Block::PER_HALF;
        // One that is not finite shows in the sums.
        integers[k * Block::HALVES + half] =
            std::fabs(number) <= 32768 ? std::lrint(number) : 0;
        to[places.sums + ((b * Block::SIZE + i) >> form.shift)] += from[i];
      }
    }
  return out;
}

// As the other `tile`.
template <long R, long OUT, long BITS>
inline void tile(const Quantized<BITS>& form, long row, const float* x, float* out,
                 long ldo) {
  using namespace quantized;
  using Block = quantized::Block<BITS>;
  const Places<BITS> places(form);
  const long ldx = pitch(form), groups = form.groups;
  // Of all rows, and what a vector reads after the last one.
  thread_local Buffer factors;
  factors.resize(2 * OUT * groups + WORDS);
  float *scales = factors.data(), *biases = scales + OUT * groups;
  form.scales.copy(row * groups, OUT * groups, scales);
  form.biases.copy(row * groups, OUT * groups, biases);
  std::fill_n(biases + OUT * groups, WORDS, 0.0f);
  Integers group{};  // of each word of a block, after that of the first
  for (long i = 0; i < WORDS; i++) group[i] = (i * 32 / BITS) >> form.shift;

  Values sums[OUT][R] = {};
  Ahead ahead(form, row, OUT);
  for (long b = 0; b < places.blocks; b++) {
    const long c = b * Block::SIZE;
    ahead.fetch(OUT * sizeof(Words));
    for (long o = 0; o < OUT; o++) {
      const uint32_t* from = form.row(row + o) + b * WORDS;
      Words packed{};
      if (c + Block::SIZE <= form.dim)
        std::memcpy(&packed, from, sizeof packed);
      else
        std::memcpy(&packed, from, sizeof packed / 2);
      const Values scale = __builtin_shuffle(
          values_at(scales + o * groups + (c >> form.shift)), group);
      Halves weights[Block::PER_HALF];
      for (long k = 0; k < Block::PER_HALF; k++)
        weights[k] = (Halves)(packed >> (BITS * k) & Block::LOWEST);
#pragma GCC unroll 8
      for (long r = 0; r < R; r++) {
        const float* numbers = x + r * ldx + b * Block::SIZE / 2;
        Integers part{};
        for (long k = 0; k < Block::PER_HALF; k++)
          part = multiply_add(part, weights[k], halves_at(numbers + k * WORDS));
        const Values factor = scale * x[r * ldx + places.steps + b];
        sums[o][r] =
            add_product(sums[o][r], __builtin_convertvector(part, Values), factor);
      }
    }
  }
#pragma GCC unroll 8
  for (long o = 0; o < OUT; o++)
#pragma GCC unroll 8
    for (long r = 0; r < R; r++) {
      for (long g = 0; g < groups; g += WORDS)
        sums[o][r] = add_product(sums[o][r], values_at(biases + o * groups + g),
                                 values_at(x + r * ldx + places.sums + g));
      out[r * ldo + o] = sum(sums[o][r]);
    }
}

}  // namespace stored
