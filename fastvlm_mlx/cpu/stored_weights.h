// Weights as they are stored, bfloat16 or MLX's affine quantization with 4 or 8 bits, and
// their products with few rows.
//
// Weights become float32 in registers, and sums are float32. In a vector of 32-bit words a
// shift gives one number of each word, so the numbers of a block come out interleaved; x
// is put in that order first.

#pragma once

#include <cstdint>
#include <cstring>

#include "parallel.h"

// A linear layer: weight (out_dim, dim) of so many bits, 16 for bfloat16. Quantized ones
// have scales and biases (out_dim, dim / group). dim is a multiple of 64. `bias` may be
// null.
struct Matrix {
  const void* weight;
  const float *scales, *biases, *bias;
  long dim, out_dim, group, bits;
};

namespace stored {

constexpr long WIDTH = 8;     // of a vector, in numbers of 32 bits
constexpr long AHEAD = 4096;  // bytes that are fetched before they are needed

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * WIDTH)));

inline const vec& at(const float* x) { return *reinterpret_cast<const vec*>(x); }

inline const words& words_at(const void* from) {
  __builtin_prefetch(static_cast<const char*>(from) + AHEAD);
  return *static_cast<const words*>(from);
}

inline float sum(vec v) {
  float total = 0;
  for (long i = 0; i < WIDTH; i++) total += v[i];
  return total;
}

// A form opens a block of weights: PER_WORD vectors in WIDTH words, from column c. Those of
// a SCALED form are `numbers * scale + bias`. The sums of ROWS rows of x with 2 rows of
// weights stay in registers.
struct BFloat16 {
  static constexpr long PER_WORD = 2, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 6;
  static constexpr bool SCALED = false;
  const uint16_t* weight;
  long dim;

  explicit BFloat16(const Matrix& m)
      : weight(static_cast<const uint16_t*>(m.weight)), dim(m.dim) {}

  struct Block {
    words both;
    inline vec numbers(long k) const {
      return (vec)(k ? both & 0xffff0000u : both << 16);
    }
    inline vec weights(long k) const { return numbers(k); }
  };

  inline Block open(long row, long c) const { return {words_at(weight + row * dim + c)}; }
};

template <long BITS>
struct Quantized {
  static constexpr long PER_WORD = 32 / BITS, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 4;
  static constexpr bool SCALED = true;
  const uint32_t* weight;
  const float *scales, *biases;
  long dim, group;

  explicit Quantized(const Matrix& m)
      : weight(static_cast<const uint32_t*>(m.weight)), scales(m.scales),
        biases(m.biases), dim(m.dim), group(m.group) {}

  struct Block {
    words packed;
    vec scale, bias;
    inline vec numbers(long k) const {
      const words low = packed >> (BITS * k) & ((1u << BITS) - 1);
      return __builtin_convertvector((integers)low, vec);
    }
    inline vec weights(long k) const { return numbers(k) * scale + bias; }
  };

  inline Block open(long row, long c) const {
    const long first = row * (dim / group);
    return {words_at(weight + row * (dim / PER_WORD) + c / PER_WORD),
            of_halves(scales + first, c), of_halves(biases + first, c)};
  }

  // A block is of one group, or its halves are of two.
  inline vec of_halves(const float* values, long c) const {
    const float a = values[c / group], b = values[(c + BLOCK / 2) / group];
    return vec{a, a, a, a, b, b, b, b};
  }
};

// Not a stored weight: the same products of float32 numbers.
struct Float {
  static constexpr long PER_WORD = 1, BLOCK = WIDTH, ROWS = 6;
  static constexpr bool SCALED = false;
  const float* weight;
  long dim;

  struct Block {
    vec whole;
    inline vec numbers(long) const { return whole; }
  };

  inline Block open(long row, long c) const { return {at(weight + row * dim + c)}; }
};

// Calls f with the weight of `m` in its form.
template <class F>
inline void in_form(const Matrix& m, F f) {
  switch (m.bits) {
    case 4: return f(Quantized<4>(m));
    case 8: return f(Quantized<8>(m));
    default: return f(BFloat16(m));
  }
}

// Numbers of an interleaved row of x: dim, and the sums of each word's for a SCALED form.
template <class Form>
constexpr long pitch(long dim) {
  return Form::SCALED ? dim + dim / Form::PER_WORD : dim;
}

// x (rows, dim) in the order in which a form gives weights, (rows, pitch).
template <class Form>
inline Buffer interleaved(const float* x, long rows, long dim) {
  Buffer out(rows * pitch<Form>(dim));
  float* to = out.data();
  for (long r = 0; r < rows; r++, x += dim, to += pitch<Form>(dim))
    for (long c = 0; c < dim; c += Form::BLOCK)
      for (long j = 0; j < WIDTH; j++) {
        float sum = 0;
        for (long k = 0; k < Form::PER_WORD; k++)
          sum += to[c + k * WIDTH + j] = x[c + j * Form::PER_WORD + k];
        if (Form::SCALED) to[dim + c / Form::PER_WORD + j] = sum;
      }
  return out;
}

// a + b * c, not added to anything else first: a sum is made in the order of the weights,
// however many are made at a time, so an answer is the same alone and in a batch.
inline vec add_product(vec a, vec b, vec c) {
#if __GNUC__ >= 12 && !defined(__clang__)
  return __builtin_assoc_barrier(a + b * c);
#else
  return a + b * c;
#endif
}

// The products of OUT rows of weights with R rows of x, interleaved.
template <long R, long OUT, class Form>
inline void tile(const Form& form, long row, const float* x, float* out, long ldo) {
  const long ldx = pitch<Form>(form.dim);
  vec sums[OUT][R] = {};
  for (long c = 0; c < form.dim; c += Form::BLOCK) {
    typename Form::Block blocks[OUT];
    for (long o = 0; o < OUT; o++) blocks[o] = form.open(row + o, c);
    vec parts[OUT][R] = {};
    auto& into = Form::SCALED ? parts : sums;
#pragma GCC unroll 8
    for (long k = 0; k < Form::PER_WORD; k++) {
      vec numbers[OUT];
      for (long o = 0; o < OUT; o++) numbers[o] = blocks[o].numbers(k);
#pragma GCC unroll 8
      for (long r = 0; r < R; r++)
        for (long o = 0; o < OUT; o++)
          into[o][r] =
              add_product(into[o][r], numbers[o], at(x + r * ldx + c + k * WIDTH));
    }
    if constexpr (Form::SCALED)
      for (long r = 0; r < R; r++)
        for (long o = 0; o < OUT; o++) {
          const vec& whole = at(x + r * ldx + form.dim + c / Form::PER_WORD);
          sums[o][r] = add_product(sums[o][r], parts[o][r], blocks[o].scale);
          sums[o][r] = add_product(sums[o][r], whole, blocks[o].bias);
        }
  }
  for (long r = 0; r < R; r++)
    for (long o = 0; o < OUT; o++) out[r * ldo + o] = sum(sums[o][r]);
}

// x (rows, pitch), interleaved, by the weights' rows `first` to `last`: R rows of x at a
// time, then what is left of them.
template <class Form, long R = Form::ROWS>
inline void few_rows(const Form& form, const float* x, float* out, long rows, long ldo,
                     long first, long last) {
  constexpr long OUT = 2;
  for (; rows >= R; rows -= R, x += R * pitch<Form>(form.dim), out += R * ldo) {
    long o = first;
    for (; o + OUT <= last; o += OUT) tile<R, OUT>(form, o, x, out + o, ldo);
    for (; o < last; o++) tile<R, 1>(form, o, x, out + o, ldo);
  }
  if constexpr (R > 1) few_rows<Form, R - 1>(form, x, out, rows, ldo, first, last);
}

}  // namespace stored
