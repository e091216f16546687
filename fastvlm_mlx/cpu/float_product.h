// Products of few rows with weights that become float32 in registers, and what all products
// of few rows share.

#pragma once

#include "stored_weights.h"

namespace stored {

// Not a stored weight: the same products of float32 numbers.
struct Float {
  static constexpr long PER_WORD = 1, BLOCK = WIDTH, ROWS = 6, OUT = 2;
  const float* weight;
  long dim;

  struct Block {
    vec whole;
    inline vec weights(long) const { return whole; }
  };

  inline const float* row(long row) const { return weight + row * dim; }

  inline Block open(long row, long c) const { return {at(weight + row * dim + c)}; }
};

// x as `tile` takes it, (rows, pitch).
template <class Form>
inline Buffer prepared(const Form& form, const float* x, long rows) {
  return interleaved<Form>(x, rows, form.dim);
}

template <class Form>
inline long pitch(const Form& form) {
  return form.dim;
}

// Fetches weights that come after OUT rows from `row` on, in the order in which they lie in
// memory: a tile reads several rows at once, and memory gives one after the other faster.
class Ahead {
 public:
  template <class Form>
  Ahead(const Form& form, long row, long out)
      : next(reinterpret_cast<const char*>(form.row(row + out)) + DISTANCE) {}

  inline void fetch(long bytes) {
    for (long i = 0; i < bytes; i += LINE) __builtin_prefetch(next + i, 0, LAST_BUT_ONE);
    next += bytes;
  }

 private:
  static constexpr long LINE = 64, DISTANCE = 4096;
  static constexpr int LAST_BUT_ONE = 2;  // cache: what is ahead may not fit the first

  const char* next;
};

// a + b * c, not added to anything else first: a sum is made in the order of the weights,
// however many are made at a time, so an answer is the same alone and in a batch.
template <class Vector>
inline Vector add_product(Vector a, Vector b, Vector c) {
  Vector sum = a + b * c;
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
  Ahead ahead(form, row, OUT);
  for (long c = 0; c < form.dim; c += Form::BLOCK) {
    ahead.fetch(OUT * sizeof(words));
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
