// Attention of the decoder: queries of new positions to those of the KV cache and, each to
// none after itself, to the new ones.

#pragma once

#include "few_rows.h"
#include "vector_math.h"

namespace decoder {

using namespace stored;

// Keys and values of some positions: (count, head_dim).
struct Positions {
  const float *keys, *values;
  long count;
};

// Attention of queries (heads, head_dim) to the positions `before` and then `own`.
inline void attend(const float* q, const Positions& before, const Positions& own,
                   float* out, long heads, long head_dim, float scale) {
  constexpr long VECTORS = 4;
  const long all = before.count + own.count;
  Buffer scores(heads * all);
  few_rows(Float{before.keys, head_dim}, q, scores.data(), heads, all, 0, before.count);
  few_rows(Float{own.keys, head_dim}, q, &scores[before.count], heads, all, 0, own.count);
  for (long h = 0; h < heads; h++) {
    float* shares = &scores[h * all];
    softmax(shares, all, scale);
    for (long c = 0; c < head_dim; c += VECTORS * WIDTH) {
      vec sums[VECTORS] = {};
      const auto add = [&](const Positions& positions, const float* share) {
        const float* value = positions.values + c;
        for (long p = 0; p < positions.count; p++, value += head_dim)
          for (long i = 0; i < VECTORS; i++) sums[i] += share[p] * at(value + i * WIDTH);
      };
      add(before, shares);
      add(own, shares + before.count);
      std::memcpy(out + h * head_dim + c, sums, sizeof sums);
    }
  }
}

// Attention of one head's queries (count, head_dim), ldq apart, the last of which sees all
// of `own`, the one before it one less. Products are OpenBLAS'.
inline void attend_many(const float* q, long ldq, long count, const Positions& before,
                        const Positions& own, float* out, long head_dim, float scale) {
  const long all = before.count + own.count;
  Buffer scores(count * all);
  matmul_nt(q, ldq, before.keys, head_dim, scores.data(), all, count, before.count,
            head_dim);
  matmul_nt(q, ldq, own.keys, head_dim, &scores[before.count], all, count, own.count,
            head_dim);
  for (long i = 0; i < count; i++) {
    const long seen = all - count + i + 1;
    float* row = &scores[i * all];
    softmax(row, seen, scale);
    std::fill(row + seen, row + all, 0.0f);
  }
  const auto add = [&](const Positions& positions, const float* shares, float beta) {
    gemm(101, 111, 111, count, head_dim, positions.count, 1, shares, all,
         positions.values, head_dim, beta, out, ldq);
  };
  add(own, &scores[before.count], 0);
  if (before.count) add(before, scores.data(), 1);
}

}  // namespace decoder
