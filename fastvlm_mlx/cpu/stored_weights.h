// Weights as they are stored, bfloat16 or MLX's affine quantization with 4 or 8 bits.
//
// Weights become float32 in registers. In a vector of 32-bit words a shift gives one number
// of each word, so the numbers of a block come out interleaved; x is put in that order
// first.

#pragma once

#include <cstdint>
#include <cstring>

#include "bfloat16_product.h"
#include "parallel.h"

// A linear layer: weight (out_dim, dim) of so many bits, 16 for bfloat16. Quantized ones
// have scales and biases (out_dim, dim / group), of `scale_bits`: float32 or bfloat16. dim
// is a multiple of 64. `bias` may be null.
struct Matrix {
  const void *weight, *scales, *biases;
  const float* bias;
  long dim, out_dim, group, bits, scale_bits;
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

inline float sum(const bfloat16::Sums& v) {
  vec halves[2];
  std::memcpy(halves, &v, sizeof v);
  return sum(halves[0] + halves[1]);
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

// The scales or the biases of a quantized weight.
struct Scales {
  const void* numbers;
  bool wide;

  inline float operator[](long i) const {
    return wide ? static_cast<const float*>(numbers)[i]
                : bfloat16::wide(static_cast<const uint16_t*>(numbers)[i]);
  }

  // Some of them, as float32.
  inline void copy(long first, long count, float* out) const {
    if (wide)
      std::copy_n(static_cast<const float*>(numbers) + first, count, out);
    else
      for (long i = 0; i < count; i++)
        out[i] = bfloat16::wide(static_cast<const uint16_t*>(numbers)[first + i]);
  }
};

template <long BITS>
struct Quantized {
  static constexpr long PER_WORD = 32 / BITS, BLOCK = WIDTH * PER_WORD;
  static constexpr long ROWS = 4, OUT = 4;
  const uint32_t* weight;
  Scales scales, biases;
  long dim, groups, shift;  // a group is 2^shift numbers: a division takes 20 cycles

  explicit Quantized(const Matrix& m)
      : weight(static_cast<const uint32_t*>(m.weight)),
        scales{m.scales, m.scale_bits == 32}, biases{m.biases, m.scale_bits == 32},
        dim(m.dim), groups(m.dim / m.group), shift(__builtin_ctzl(m.group)) {}

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
    return {words_at(row(r) + c / PER_WORD), of_halves(scales, r, c),
            of_halves(biases, r, c)};
  }

 private:
  // A block is of one group, or its halves are of two.
  inline vec of_halves(const Scales& values, long r, long c) const {
    const float a = values[r * groups + (c >> shift)];
    if (BLOCK <= 1l << shift) return vec{} + a;
    const float b = values[r * groups + ((c + BLOCK / 2) >> shift)];
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

// store(o, c, weights): the BLOCK weights from column c on of row first + o, in float32 and
// in the form's order, for `count` rows.
template <class Form, class Store>
inline void open_rows(const Form& form, long first, long count, Store store) {
  for (long o = 0; o < count; o++)
    for (long c = 0; c < form.dim; c += Form::BLOCK) {
      const auto block = form.open(first + o, c);
      vec weights[Form::PER_WORD];
      for (long k = 0; k < Form::PER_WORD; k++) weights[k] = block.weights(k);
      store(o, c, reinterpret_cast<const float*>(weights));
    }
}

// Some rows of a weight in bfloat16, in the order of its form; valid in this thread until
// the next call.
inline const uint16_t* opened_to_bfloat16(const Matrix& m, long first, long count) {
  if (m.bits == 16) return static_cast<const uint16_t*>(m.weight) + first * m.dim;
  thread_local bfloat16::Numbers numbers;
  numbers.resize(count * m.dim);
  uint16_t* const out = numbers.data();  // to find it for each block takes longer
  in_form(m, [&](auto form) {
    open_rows(form, first, count, [&](long o, long c, const float* weights) {
      bfloat16::round(weights, out + o * m.dim + c, decltype(form)::BLOCK);
    });
  });
  return out;
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
