// Weights as they are stored, bfloat16 or MLX's affine quantization with 4 or 8 bits.
//
// Weights become float32 in registers. In a vector of 32-bit words a shift gives one number
// of each word, so the numbers of a block come out interleaved; x is put in that order
// first.

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

constexpr long WIDTH = 8;  // of a vector, in numbers of 32 bits

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * WIDTH)));

inline const vec& at(const float* x) { return *reinterpret_cast<const vec*>(x); }

inline const words& words_at(const void* from) {
  return *static_cast<const words*>(from);
}

// Halves are added: of a sum of single numbers GCC takes them out of the vector in the loop
// that fills it, for each weight.
inline float sum(vec v) {
  v += __builtin_shuffle(v, integers{4, 5, 6, 7, 0, 1, 2, 3});
  v += __builtin_shuffle(v, integers{2, 3, 0, 1, 6, 7, 4, 5});
  v += __builtin_shuffle(v, integers{1, 0, 3, 2, 5, 4, 7, 6});
  return v[0];
}

// A form opens a block of weights: PER_WORD vectors in WIDTH words, from column c. The sums
// of ROWS rows of x with OUT rows of weights stay in registers.
struct BFloat16 {
  static constexpr long PER_WORD = 2, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 6, OUT = 2;
  const uint16_t* weight;
  long dim;

  explicit BFloat16(const Matrix& m)
      : weight(static_cast<const uint16_t*>(m.weight)), dim(m.dim) {}

  struct Block {
    words both;
    inline vec weights(long k) const {
      return (vec)(k ? both & 0xffff0000u : both << 16);
    }
  };

  inline const uint16_t* row(long row) const { return weight + row * dim; }

  inline Block open(long row, long c) const { return {words_at(weight + row * dim + c)}; }
};

template <long BITS>
struct Quantized {
  static constexpr long PER_WORD = 32 / BITS, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 4, OUT = 2;
  // The lowest number of each half of a word.
  static constexpr uint32_t LOW = ((1u << BITS) - 1) * 0x00010001u;
  const uint32_t* weight;
  const float *scales, *biases;
  long dim, groups, shift;  // a group is 2^shift numbers: a division takes 20 cycles

  explicit Quantized(const Matrix& m)
      : weight(static_cast<const uint32_t*>(m.weight)), scales(m.scales),
        biases(m.biases), dim(m.dim), groups(m.dim / m.group),
        shift(__builtin_ctzl(m.group)) {}

  struct Block {
    words packed;
    vec scale, bias;
    inline vec weights(long k) const {
      const words numbers = packed >> (BITS * k) & ((1u << BITS) - 1);
      return __builtin_convertvector((integers)numbers, vec) * scale + bias;
    }
  };

  inline const uint32_t* row(long row) const { return weight + row * (dim / PER_WORD); }

  inline Block open(long r, long c) const {
    const long first = r * groups;
    return {words_at(row(r) + c / PER_WORD),
            of_halves(scales + first, c), of_halves(biases + first, c)};
  }

  // A block is of one group, or its halves are of two.
  inline vec of_halves(const float* values, long c) const {
    if (BLOCK <= 1l << shift) return vec{} + values[c >> shift];
    const float a = values[c >> shift], b = values[(c + BLOCK / 2) >> shift];
    return vec{a, a, a, a, b, b, b, b};
  }
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

// x (rows, dim) in the order in which a form gives weights.
template <class Form>
inline Buffer interleaved(const float* x, long rows, long dim) {
  Buffer out(rows * dim);
  for (long i = 0; i < rows * dim; i += Form::BLOCK)
    for (long k = 0; k < Form::PER_WORD; k++)
      for (long j = 0; j < WIDTH; j++)
        out[i + k * WIDTH + j] = x[i + j * Form::PER_WORD + k];
  return out;
}

}  // namespace stored
