// Matrix products of bfloat16 numbers with float32 sums, as the processor's own
// instruction makes them (`vdpbf16ps`, AVX512-BF16).
//
// The weight is packed into panels of PANEL rows: two neighbours of each row, then the
// next two. A vector then holds a pair of LANES rows; the instruction multiplies it with
// a pair of one row of x and adds both products to LANES sums. A sum runs over the pairs
// in order, so it does not depend on the rows beside it. `Emulated` does the same with
// float32 vectors, on every processor.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace bfloat16 {

using Numbers = std::vector<uint16_t>;

constexpr long LANES = 16, VECTORS = 2, PANEL = LANES * VECTORS;
constexpr long TILE = 12;  // rows of x: TILE * VECTORS sums stay in registers
constexpr long BLOCK = 20 * TILE;  // rows of x that stay in the second cache

typedef float Sums __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Pairs __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Square __attribute__((vector_size(32), aligned(4), may_alias));

struct Emulated {
  // A product of two bfloat16 numbers is exact, and the second is added first. Not
  // inlined: it would take a second to compile, on machines that never use it.
  __attribute__((noinline)) static void multiply_add(Sums& total, const Pairs& x,
                                                     const Pairs& w) {
    total += (Sums)(x & 0xffff0000u) * (Sums)(w & 0xffff0000u);
    total += (Sums)(x << 16) * (Sums)(w << 16);
  }
};

#ifdef __AVX512BF16__
constexpr bool HAS_NATIVE = true;

struct Native {
  static inline void multiply_add(Sums& total, const Pairs& x, const Pairs& w) {
    total = (Sums)_mm512_dpbf16_ps((__m512)total, (__m512bh)x, (__m512bh)w);
  }
};
#else
constexpr bool HAS_NATIVE = false;
using Native = Emulated;
#endif

enum Form { OFF, EMULATED, NATIVE };
inline Form form = OFF;

inline long whole(long count, long step) { return (count + step - 1) / step * step; }

// From one row of x to the next: an odd number of cache lines, or the rows of a tile
// would share a set of the cache.
inline long pitch(long dim) { return whole(dim, 32) | 32; }

// To the nearest, ties to even.
inline uint16_t rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline void round(const float* x, uint16_t* out, long count) {
  long i = 0;
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
  // Not 16 at once: a load of what two stores wrote waits for them.
  for (; i + 8 <= count; i += 8) {
    const __m128bh numbers = _mm256_cvtneps_pbh(_mm256_loadu_ps(x + i));
    std::memcpy(out + i, &numbers, sizeof numbers);
  }
#endif
  for (; i < count; i++) out[i] = rounded(x[i]);
}

inline float wide(uint16_t number) {
  const uint32_t bits = uint32_t{number} << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

template <int STEP>
inline void exchange(Square* rows, const Square& low, const Square& high) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++)
    if (!(i & STEP)) {
      const Square a = rows[i], b = rows[i + STEP];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + STEP] = __builtin_shuffle(a, b, high);
    }
}

// Rows and columns of 8 x 8 words change places.
inline void transpose(Square* rows) {
  exchange<1>(rows, Square{0, 8, 2, 10, 4, 12, 6, 14}, Square{1, 9, 3, 11, 5, 13, 7, 15});
  exchange<2>(rows, Square{0, 1, 8, 9, 4, 5, 12, 13}, Square{2, 3, 10, 11, 6, 7, 14, 15});
  exchange<4>(rows, Square{0, 1, 2, 3, 8, 9, 10, 11}, Square{4, 5, 6, 7, 12, 13, 14, 15});
}

// The numbers of one panel.
inline long panel_size(long dim) { return PANEL * whole(dim, 16); }

// 8 rows of 16 numbers, `ld` apart, as 8 columns of pairs; zeros outside of them.
inline void load_square(const uint16_t* from, long ld, long rows, long columns,
                        Square* words) {
  if (rows >= 8 && columns >= 16)
    for (long i = 0; i < 8; i++) std::memcpy(&words[i], from + i * ld, sizeof *words);
  else
    for (long i = 0; i < 8; i++) {
      words[i] = Square{};
      if (i < rows)
        std::memcpy(&words[i], from + i * ld, 2 * std::min(columns, 16L));
    }
  transpose(words);
}

// `count` rows of a weight, `dim` numbers each and `ld` apart, into one panel; zeros
// around them.
inline void pack(const uint16_t* weight, long ld, long count, long dim,
                 uint16_t* panel) {
  for (long r = 0; r < PANEL; r += LANES)
    for (long c = 0; c < dim; c += 16) {
      Square words[2][8];  // side by side they are whole cache lines
      for (long half = 0; half < 2; half++)
        load_square(weight + (r + 8 * half) * ld + c, ld, count - r - 8 * half, dim - c,
                    words[half]);
      for (long i = 0; i < 8; i++)
        for (long half = 0; half < 2; half++)
          std::memcpy(panel + (c / 2 + i) * 2 * PANEL + (r + 8 * half) * 2,
                      &words[half][i], sizeof(Square));
    }
}

// f(0) ... f(count - 1); a whole panel's in vectors.
template <class F>
inline void for_columns(long count, F f) {
  if (count == PANEL)
    for (long c = 0; c < PANEL; c++) f(c);
  else
    for (long c = 0; c < count; c++) f(c);
}

// ROWS rows of x with a panel; store(r, sums) for `rows` of them, PANEL sums each. Not
// inlined: the loop needs all registers.
template <class Arithmetic, long ROWS, class Store>
__attribute__((noinline)) void tile(const uint16_t* x, long ldx, const uint16_t* panel,
                                    long dim, long rows, Store store) {
  Sums total[ROWS][VECTORS] = {}, done[ROWS][VECTORS];
  for (long k = 0; k < dim; k += 2) {
    const Pairs* weights = reinterpret_cast<const Pairs*>(panel + k * PANEL);
#pragma GCC unroll 12
    for (long r = 0; r < ROWS; r++) {
      uint32_t pair;
      std::memcpy(&pair, x + r * ldx + k, sizeof pair);
      const Pairs both = Pairs{} + pair;
#pragma GCC unroll 2
      for (long v = 0; v < VECTORS; v++)
        Arithmetic::multiply_add(total[r][v], both, weights[v]);
    }
  }
  // Only what is never indexed by a variable stays in registers.
#pragma GCC unroll 12
  for (long r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (long v = 0; v < VECTORS; v++) done[r][v] = total[r][v];
  for (long r = 0; r < rows; r++) store(r, reinterpret_cast<const float*>(done[r]));
}

// x (rows, dim), ldx apart, @ a panel.T: store(r, sums) for each row, PANEL sums. x has
// memory for whole tiles.
template <class Arithmetic, class Store>
inline void tiles(const uint16_t* x, long ldx, const uint16_t* panel, long rows, long dim,
                  Store store) {
  for (long first = 0; first < rows; first += TILE) {
    const long left = rows - first;
    const auto store_row = [&](long r, const float* sums) { store(first + r, sums); };
    const uint16_t* from = x + first * ldx;
    if (left > TILE / 2)
      tile<Arithmetic, TILE>(from, ldx, panel, dim, std::min(left, TILE), store_row);
    else
      tile<Arithmetic, TILE / 2>(from, ldx, panel, dim, left, store_row);
  }
}

// As `tiles`, in the form that is in use; rows of x are `pitch` apart.
template <class Store>
inline void panel_product(const uint16_t* x, const uint16_t* panel, long rows, long dim,
                          Store store) {
  if (form == NATIVE)
    tiles<Native>(x, pitch(dim), panel, rows, dim, store);
  else
    tiles<Emulated>(x, pitch(dim), panel, rows, dim, store);
}

}  // namespace bfloat16
