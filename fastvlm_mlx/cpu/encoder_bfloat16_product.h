// The encoder's layers with bfloat16 weights, their products in bfloat16 too. Inputs,
// biases, GELU, skips and all sums are float32.
//
// All cores pack a weight, or a part of it, into memory that is kept; then each takes
// rows of the map.

#pragma once

#include "bfloat16_product.h"
#include "conv_ffn.h"
#include "depthwise.h"
#include "parallel.h"
#include "vector_math.h"

namespace bfloat16 {

constexpr long PART = 1 << 20;  // packed weights of a layer: they stay in the last cache

// The calling thread's memory for one of several weights.
inline uint16_t* kept(long which, long size) {
  thread_local Numbers memory[2];
  memory[which].resize(std::max<long>(memory[which].size(), size));
  return memory[which].data();
}

// The calling thread's memory for `rows` of x, of `dim` numbers and zeros behind them.
inline uint16_t* kept_rows(long which, long rows, long dim) {
  thread_local Numbers memory[2];
  const long ldx = pitch(dim), size = whole(rows, TILE) * ldx;
  memory[which].resize(std::max<long>(memory[which].size(), size));
  for (long r = 0; r < rows; r++)
    std::fill_n(&memory[which][r * ldx + dim], whole(dim, 2) - dim, 0);
  return memory[which].data();
}

// Rows of x, `dim` numbers each and `ld` apart, rounded.
inline const uint16_t* rounded_rows(const float* x, long ld, long rows, long dim) {
  uint16_t* to = kept_rows(0, rows, dim);
  for (long r = 0; r < rows; r++) round(x + r * ld, to + r * pitch(dim), dim);
  return to;
}

// The numbers of a weight's panels.
inline long packed_size(long rows, long dim) {
  return whole(rows, PANEL) / PANEL * panel_size(dim);
}

// Rows of a weight, `ld` apart, into panels, on all cores.
inline void pack_all(const uint16_t* weight, long ld, long rows, long dim,
                     uint16_t* packed) {
  parallel((rows + PANEL - 1) / PANEL, [&](long piece) {
    const long first = piece * PANEL, count = std::min(PANEL, rows - first);
    pack(weight + first * ld, ld, count, dim, packed + piece * panel_size(dim));
  });
}

// x (rows, dim), `pitch` apart, @ packed (out_dim, dim).T: store(r, o, sum) for each.
template <class Store>
inline void product(const uint16_t* x, const uint16_t* packed, long rows, long dim,
                    long out_dim, Store store) {
  for (long o = 0; o < out_dim; o += PANEL)
    panel_product(x, packed + o / PANEL * panel_size(dim), rows, dim,
                  [&](long r, const float* sums) {
                    for_columns(std::min(PANEL, out_dim - o),
                                [&](long c) { store(r, o + c, sums[c]); });
                  });
}

// As fv_linear.
inline void linear(const float* x, const uint16_t* weight, const float* bias, float* out,
                   long rows, long dim, long out_dim, bool activate) {
  uint16_t* packed = kept(0, packed_size(out_dim, dim));
  pack_all(weight, dim, out_dim, dim, packed);
  const long step = std::clamp(rows / cores, 1L, BLOCK);
  parallel((rows + step - 1) / step, [&](long piece) {
    const long first = piece * step, count = std::min(step, rows - first);
    const uint16_t* from = rounded_rows(x + first * dim, dim, count, dim);
    float* to = out + first * out_dim;
    if (activate)
      product(from, packed, count, dim, out_dim, [&](long r, long o, float sum) {
        to[r * out_dim + o] = gelu(sum + bias[o]);
      });
    else
      product(from, packed, count, dim, out_dim, [&](long r, long o, float sum) {
        to[r * out_dim + o] = sum + bias[o];
      });
  });
}

// As fv_conv_ffn.
inline void conv_ffn(const float* x, const Depthwise& conv, const uint16_t* fc1,
                     const float* bias1, const uint16_t* fc2, const float* bias2,
                     float* out, long batch, long height, long width, long hidden_dim) {
  const long dim = conv.dim, parts = (hidden_dim * dim + PART - 1) / PART;
  const long part = whole((hidden_dim + parts - 1) / parts, PANEL);
  uint16_t* packed1 = kept(0, packed_size(part, dim));
  uint16_t* packed2 = kept(1, packed_size(dim, part));
  const auto ready = [&](long start, long channels) {
    pack_all(fc1 + start * dim, dim, channels, dim, packed1);
    pack_all(fc2 + start, hidden_dim, dim, channels, packed2);
  };
  const auto add = [&](const float* rows, long count, long start, long channels,
                       float* to) {
    const float* bias = bias1 + start;
    for (long r = 0; r < count; r += BLOCK, rows += BLOCK * dim, to += BLOCK * dim) {
      const long some = std::min(BLOCK, count - r), ld = pitch(channels);
      const uint16_t* from = rounded_rows(rows, dim, some, dim);
      uint16_t* hidden = kept_rows(1, some, channels);
      product(from, packed1, some, dim, channels, [&](long r, long o, float sum) {
        hidden[r * ld + o] = bfloat16::rounded(gelu(sum + bias[o]));
      });
      product(hidden, packed2, some, channels, dim,
              [&](long r, long o, float sum) { to[r * dim + o] += sum; });
    }
  };
  conv_ffn_in_parts(x, conv, bias2, out, batch, height, width, hidden_dim, part, ready,
                    add);
}

}  // namespace bfloat16
