// Weights as they are stored, bfloat16 or MLX's affine quantization with 4 or 8 bits, and
// their products with few rows (those with quantized weights in `quantized_product.h`).
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

// Halves are added: of a sum of single numbers GCC takes them out of the vector in the loop
// that fills it, for each weight.
inline float sum(vec v) {
  v += __builtin_shuffle(v, integers{4, 5, 6, 7, 0, 1, 2, 3});
  v += __builtin_shuffle(v, integers{2, 3, 0, 1, 6, 7, 4, 5});
  v += __builtin_shuffle(v, integers{1, 0, 3, 2, 5, 4, 7, 6});
  return v[0];
}

// A form opens a block of weights: PER_WORD vectors in WIDTH words, from column c. The sums
// of ROWS rows of x with 2 rows of weights stay in registers.
struct BFloat16 {
  static constexpr long PER_WORD = 2, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 6;
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

  inline Block open(long row, long c) const { return {words_at(weight + row * dim + c)}; }
};

template <long BITS>
struct Quantized {
  static constexpr long PER_WORD = 32 / BITS, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 4;
  // The lowest number of each half of a word.
  static constexpr uint32_t LOW = ((1u << BITS) - 1) * 0x00010001u;
  const uint32_t* weight;
  const float *scales, *biases;
  long dim, group;

  explicit Quantized(const Matrix& m)
      : weight(static_cast<const uint32_t*>(m.weight)), scales(m.scales),
        biases(m.biases), dim(m.dim), group(m.group) {}

  struct Block {
    words packed;
    vec scale, bias;
    inline vec weights(long k) const {
      const words numbers = packed >> (BITS * k) & ((1u << BITS) - 1);
      return __builtin_convertvector((integers)numbers, vec) * scale + bias;
    }
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
  const float* weight;
  long dim;

  struct Block {
    vec whole;
    inline vec weights(long) const { return whole; }
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

// x as `tile` takes it, (rows, pitch).
template <class Form>
inline Buffer prepared(const Form& form, const float* x, long rows) {
  return interleaved<Form>(x, rows, form.dim);
}

template <class Form>
inline long pitch(const Form& form) {
  return form.dim;
}

// a + b * c, not added to anything else first: a sum is made in the order of the weights,
// however many are made at a time, so an answer is the same alone and in a batch.
inline vec add_product(vec a, vec b, vec c) {
  vec sum = a + b * c;
#ifdef __AVX__
  // GCC makes the barrier below one number at a time where there is AVX-512.
  asm("" : "+v"(sum));
#elif __GNUC__ >= 12 && !defined(__clang__)
  sum = __builtin_assoc_barrier(sum);
#endif
  return sum;
}

// The products of OUT rows of weights with R rows of x, prepared.
template <long R, long OUT, class Form>
inline void tile(const Form& form, long row, const float* x, float* out, long ldo) {
  vec sums[OUT][R] = {};
  for (long c = 0; c < form.dim; c += Form::BLOCK) {
    typename Form::Block blocks[OUT];
    for (long o = 0; o < OUT; o++) blocks[o] = form.open(row + o, c);
#pragma GCC unroll 8
    for (long k = 0; k < Form::PER_WORD; k++) {
      vec weights[OUT];
      for (long o = 0; o < OUT; o++) weights[o] = blocks[o].weights(k);
#pragma GCC unroll 8
      for (long r = 0; r < R; r++)
        for (long o = 0; o < OUT; o++)
          sums[o][r] = add_product(sums[o][r], weights[o],
                                   at(x + r * form.dim + c + k * WIDTH));
    }
  }
  for (long r = 0; r < R; r++)
    for (long o = 0; o < OUT; o++) out[r * ldo + o] = sum(sums[o][r]);
}

}  // namespace stored

#include "quantized_product.h"

namespace stored {

// x (rows, pitch), prepared, by the weights' rows `first` to `last`: R rows of x at a time,
// then what is left of them.
template <class Form, long R = Form::ROWS>
inline void few_rows(const Form& form, const float* x, float* out, long rows, long ldo,
                     long first, long last) {
  const long ldx = pitch(form);
  for (; rows >= R; rows -= R, x += R * ldx, out += R * ldo) {
    long o = first;
    for (; o + 2 <= last; o += 2) tile<R, 2>(form, o, x, out + o, ldo);
    if (o < last) tile<R, 1>(form, o, x, out + o, ldo);
  }
  if constexpr (R > 1) few_rows<Form, R - 1>(form, x, out, rows, ldo, first, last);
}

}  // namespace stored
