// The encoder's attention with both of its products in bfloat16; softmax is float32.

#pragma once

#include "encoder_bfloat16_product.h"

namespace bfloat16 {

constexpr long QUERIES = 5 * TILE;  // of a head at a time: its scores stay in the cache

// Rows of a weight, `ld` apart, into panels.
inline void pack_rows(const uint16_t* weight, long ld, long rows, long dim,
                      uint16_t* packed) {
  for (long first = 0; first < rows; first += PANEL, packed += panel_size(dim))
    pack(weight + first * ld, ld, std::min(PANEL, rows - first), dim, packed);
}

// One head: q, k and v (length, head_dim), `ld` numbers from row to row; out (length,
// head_dim), `ldo` apart.
inline void attend(const float* q, const float* k, const float* v, float* out, long length,
                   long head_dim, long ld, long ldo) {
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
  uint16_t* keys = kept(0, packed_size(length, head_dim));
  uint16_t* values = kept(1, packed_size(head_dim, length));
  pack_rows(rounded_rows(k, ld, length, head_dim), pitch(head_dim), length, head_dim,
            keys);
  Numbers columns(head_dim * length);
  for (long i = 0; i < length; i++)
    for (long c = 0; c < head_dim; c++) columns[c * length + i] = rounded(v[i * ld + c]);
  pack_rows(columns.data(), length, head_dim, length, values);

  Buffer scores(QUERIES * length);
  for (long first = 0; first < length; first += QUERIES) {
    const long count = std::min(QUERIES, length - first);
    const uint16_t* queries = rounded_rows(q + first * ld, ld, count, head_dim);
    product(queries, keys, count, head_dim, length,
            [&](long r, long o, float sum) { scores[r * length + o] = sum; });
    uint16_t* shares = kept_rows(1, count, length);
    for (long r = 0; r < count; r++) {
      softmax(&scores[r * length], length, scale);
      round(&scores[r * length], shares + r * pitch(length), length);
    }
    float* to = out + first * ldo;
    product(shares, values, count, length, head_dim,
            [&](long r, long o, float sum) { to[r * ldo + o] = sum; });
  }
}

// As fv_attention.
inline void attention(const float* qkv, float* out, long batch, long length, long heads,
                      long head_dim) {
  const long dim = heads * head_dim;
  parallel(batch * heads, [&](long piece) {
    const long start = piece / heads * length, head = piece % heads * head_dim;
    const float* q = qkv + start * 3 * dim + head;
    attend(q, q + dim, q + 2 * dim, out + start * dim + head, length, head_dim, 3 * dim,
           dim);
  });
}

}  // namespace bfloat16
