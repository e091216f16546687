// Products of few rows with bfloat16 weights, in bfloat16 (`bfloat16_product.h`).
//
// A vector holds neighbours of one row, so the weights are read as they are stored: what
// packing them costs pays for many rows only.

#pragma once

#include "bfloat16_product.h"
#include "float_product.h"

namespace stored {

// With 2 PARTS a row of x is rounded, and what that left out is a row of its own: 16 bits
// of each number count, float32 has 24.
template <class Arithmetic, long PARTS>
struct Rounded {
  static constexpr long PER_WORD = 2, BLOCK = 2 * bfloat16::LANES, ROWS = 6, OUT = 4;
  const uint16_t* weight;
  long dim;

  explicit Rounded(const Matrix& m)
      : weight(static_cast<const uint16_t*>(m.weight)), dim(m.dim) {}

  inline const uint16_t* row(long row) const { return weight + row * dim; }
};

template <class Arithmetic, long PARTS>
inline long pitch(const Rounded<Arithmetic, PARTS>& form) {
  return PARTS * form.dim / 2;
}

template <class Arithmetic, long PARTS>
inline Buffer prepared(const Rounded<Arithmetic, PARTS>& form, const float* x,
                       long rows) {
  Buffer out(rows * pitch(form)), left(x, x + rows * form.dim);
  uint16_t* to = reinterpret_cast<uint16_t*>(out.data());
  for (long r = 0; r < rows; r++)
    for (long p = 0; p < PARTS; p++, to += form.dim) {
      float* from = &left[r * form.dim];
      bfloat16::round(from, to, form.dim);
      for (long i = 0; i < form.dim; i++) from[i] -= bfloat16::wide(to[i]);
    }
  return out;
}

// As the other `tile`.
template <long R, long OUT, class Arithmetic, long PARTS>
inline void tile(const Rounded<Arithmetic, PARTS>& form, long row, const float* x,
                 float* out, long ldo) {
  using bfloat16::Pairs;
  using Form = Rounded<Arithmetic, PARTS>;
  bfloat16::Sums sums[OUT][R] = {};
  Ahead ahead(form, row, OUT);
  const uint16_t* weight = form.weight + row * form.dim;
  for (long c = 0; c < form.dim; c += Form::BLOCK) {
    ahead.fetch(OUT * sizeof(Pairs));
    Pairs weights[OUT];
    for (long o = 0; o < OUT; o++)
      std::memcpy(&weights[o], weight + o * form.dim + c, sizeof(Pairs));
#pragma GCC unroll 8
    for (long r = 0; r < R; r++)
#pragma GCC unroll 2
      for (long p = 0; p < PARTS; p++) {
        const float* from = x + (r * PARTS + p) * form.dim / 2 + c / 2;
        const Pairs& numbers = *reinterpret_cast<const Pairs*>(from);
        for (long o = 0; o < OUT; o++)
          Arithmetic::multiply_add(sums[o][r], numbers, weights[o]);
      }
  }
#pragma GCC unroll 8
  for (long r = 0; r < R; r++)
#pragma GCC unroll 8
    for (long o = 0; o < OUT; o++) out[r * ldo + o] = sum(sums[o][r]);
}

}  // namespace stored
