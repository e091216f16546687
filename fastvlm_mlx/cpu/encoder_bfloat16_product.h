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

// Rows of x, `dim` numbers each, rounded.
inline const uint16_t* rounded(const float* x, long rows, long dim) {
  thread_local Numbers memory;
  const long ldx = pitch(dim), size = whole(rows, TILE) * ldx;
  memory.resize(std::max<long>(memory.size(), size));
  for (long r = 0; r < rows; r++) {
    round(x + r * dim, &memory[r * ldx], dim);
    std::fill(&memory[r * ldx + dim], &memory[r * ldx] + ldx, 0);
  }
  return memory.data();
}

// Rows of a weight, `ld` apart, into panels, on all cores.
inline void pack_all(const uint16_t* weight, long ld, long rows, long dim,
                     uint16_t* packed) {
  parallel((rows + PANEL - 1) / PANEL, [&](long piece) {
    const long first = piece * PANEL, count = std::min(PANEL, rows - first);
    pack(weight + first * ld, ld, count, dim, packed + piece * panel_size(dim));
  });
}

// x (rows, dim) @ packed (out_dim, dim).T -> out (rows, out_dim), or added to it.
inline void product(const float* x, const uint16_t* packed, float* out, long rows,
                    long dim, long out_dim, bool add = false) {
  const uint16_t* short_x = rounded(x, rows, dim);
  for (long o = 0; o < out_dim; o += PANEL)
    panel_product(short_x, packed + o / PANEL * panel_size(dim), out + o, out_dim, rows,
                  dim, std::min(PANEL, out_dim - o), add);
}

// As fv_linear.
inline void linear(const float* x, const uint16_t* weight, const float* bias, float* out,
                   long rows, long dim, long out_dim, bool activate) {
  const long panels = (out_dim + PANEL - 1) / PANEL;
  uint16_t* packed = kept(0, panels * panel_size(dim));
  pack_all(weight, dim, out_dim, dim, packed);
  const long step = std::clamp(rows / cores, 1L, BLOCK);
  parallel((rows + step - 1) / step, [&](long piece) {
    const long first = piece * step, count = std::min(step, rows - first);
    float* to = out + first * out_dim;
    product(x + first * dim, packed, to, count, dim, out_dim);
    add_bias(to, bias, count, out_dim, activate);
  });
}

// As fv_conv_ffn.
inline void conv_ffn(const float* x, const Depthwise& conv, const uint16_t* fc1,
                     const float* bias1, const uint16_t* fc2, const float* bias2,
                     float* out, long batch, long height, long width, long hidden_dim) {
  const long dim = conv.dim, parts = (hidden_dim * dim + PART - 1) / PART;
  const long part = whole((hidden_dim + parts - 1) / parts, PANEL);
  uint16_t* packed1 = kept(0, part * panel_size(dim) / PANEL);
  uint16_t* packed2 = kept(1, whole(dim, PANEL) / PANEL * panel_size(part));
  const auto ready = [&](long start, long channels) {
    pack_all(fc1 + start * dim, dim, channels, dim, packed1);
    pack_all(fc2 + start, hidden_dim, dim, channels, packed2);
  };
  const auto add = [&](const float* rows, long count, long start, long channels,
                       float* to) {
    thread_local Buffer hidden;
    hidden.resize(std::max<long>(hidden.size(), BLOCK * channels));
    for (long r = 0; r < count; r += BLOCK) {
      const long some = std::min(BLOCK, count - r);
      product(rows + r * dim, packed1, hidden.data(), some, dim, channels);
      add_bias(hidden.data(), bias1 + start, some, channels, true);
      product(hidden.data(), packed2, to + r * dim, some, channels, dim, true);
    }
  };
  conv_ffn_in_parts(x, conv, bias2, out, batch, height, width, hidden_dim, part, ready,
                    add);
}

}  // namespace bfloat16
