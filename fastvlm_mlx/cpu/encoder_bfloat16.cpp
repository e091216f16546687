// The encoder's products with weights that stay bfloat16 in memory; all else is float32,
// unless the products are computed in bfloat16 too (`encoder_bfloat16_product.h`).
//
// A part of a weight is widened at a time, by all cores, into memory that is kept: small
// enough for the last cache, so that reading half the bytes pays for the widening. Then
// all cores multiply with that part. Compiled at first use by kernels.py.

#include <cstdint>

#include "attention_bfloat16.h"
#include "conv_ffn.h"
#include "depthwise.h"
#include "encoder_bfloat16_product.h"
#include "parallel.h"
#include "vector_math.h"

namespace {

constexpr long PART = 1 << 20;  // weights that are wide at a time
constexpr long STEP = 1 << 15;  // of them that one thread widens in one go

// Rows of `columns` numbers, `ld` apart, one after the other into out.
void widen(const uint16_t* weight, long ld, float* out, long rows, long columns) {
  const long step = std::max(STEP / columns, 1L);
  parallel((rows + step - 1) / step, [&](long piece) {
    const long last = std::min((piece + 1) * step, rows);
    for (long r = piece * step; r < last; r++) {
      uint32_t* to = reinterpret_cast<uint32_t*>(out + r * columns);
      for (long c = 0; c < columns; c++) to[c] = uint32_t{weight[r * ld + c]} << 16;
    }
  });
}

// The calling thread's memory for one of two weights at a time.
float* scratch(long which, long size) {
  thread_local Buffer kept[2];
  kept[which].resize(std::max<long>(kept[which].size(), size));
  return kept[which].data();
}

// How many of `count` rows of `dim` weights make a part; the parts are about equal.
long part_rows(long count, long dim) {
  const long parts = (count * dim + PART - 1) / PART;
  return (count + parts - 1) / parts;
}

constexpr long TAPS = 3 * 3 * 3;

// The windows of a 3 x 3 convolution of stride 2 over one image x (height, width, 3), of
// its output rows top ... bottom - 1; beyond the image is zero.
void copy_windows(const float* x, long height, long width, long top, long bottom,
                  float* out) {
  for (long row = top; row < bottom; row++)
    for (long column = 0; column < width / 2; column++, out += TAPS)
      for (long k = 0; k < 9; k++) {
        const long r = 2 * row - 1 + k / 3, c = 2 * column - 1 + k % 3;
        const bool inside = 0 <= r && r < height && 0 <= c && c < width;
        for (long i = 0; i < 3; i++)
          out[3 * k + i] = inside ? x[(r * width + c) * 3 + i] : 0.0f;
      }
}

}  // namespace

extern "C" {

// As fv_linear.
void fv_encoder_linear_bfloat16(const float* x, const uint16_t* weight,
                                const float* bias, float* out, long rows, long dim,
                                long out_dim, long activate) {
  if (bfloat16::form != bfloat16::OFF)
    return bfloat16::linear(x, weight, bias, out, rows, dim, out_dim, activate);
  const long step = std::clamp(rows / cores, 1L, 1024L), part = part_rows(out_dim, dim);
  float* wide = scratch(0, part * dim);
  for (long start = 0; start < out_dim; start += part) {
    const long width = std::min(part, out_dim - start);
    widen(weight + start * dim, dim, wide, width, dim);
    parallel((rows + step - 1) / step, [&](long piece) {
      const long first = piece * step, count = std::min(step, rows - first);
      float* to = out + first * out_dim;
      matmul_nt(x + first * dim, dim, wide, dim, to + start, out_dim, count, width, dim);
      if (start + width == out_dim) add_bias(to, bias, count, out_dim, activate);
    });
  }
}

// As fv_conv_ffn.
void fv_conv_ffn_bfloat16(const float* x, const float* conv_weight,
                          const float* conv_bias, const uint16_t* fc1,
                          const float* bias1, const uint16_t* fc2, const float* bias2,
                          float* out, long batch, long height, long width, long dim,
                          long hidden_dim, long kernel) {
  const Depthwise conv(conv_weight, conv_bias, dim, 1, kernel, 1);
  if (bfloat16::form != bfloat16::OFF)
    return bfloat16::conv_ffn(x, conv, fc1, bias1, fc2, bias2, out, batch, height, width,
                              hidden_dim);
  const long part = part_rows(hidden_dim, dim);
  float *wide1 = scratch(0, part * dim), *wide2 = scratch(1, part * dim);
  const auto ready = [&](long start, long channels) {
    widen(fc1 + start * dim, dim, wide1, channels, dim);
    widen(fc2 + start, hidden_dim, wide2, dim, channels);
  };
  const auto add = [&](const float* rows, long count, long start, long channels,
                       float* to) {
    Buffer hidden(count * channels);
    matmul_nt(rows, dim, wide1, dim, hidden.data(), channels, count, channels, dim);
    add_bias(hidden.data(), bias1 + start, count, channels, true);
    matmul_nt(hidden.data(), channels, wide2, channels, to, dim, count, dim, channels, 1,
              1);
  };
  conv_ffn_in_parts(x, conv, bias2, out, batch, height, width, hidden_dim, part, ready,
                    add);
}

// As fv_attention, where products are in bfloat16.
void fv_attention_bfloat16(const float* qkv, float* out, long batch, long length,
                           long heads, long head_dim) {
  bfloat16::attention(qkv, out, batch, length, heads, head_dim);
}

// gelu(depthwise(gelu(conv(x)))), both of 3 x 3 and stride 2, all float32: the map between
// them, the largest of all, is never whole. x (batch, height, width, 3), its sides
// multiples of 4; weight (dim, 3, 3, 3); out (batch, height / 4, width / 4, dim).
void fv_stem(const float* x, const float* weight, const float* bias,
             const float* depthwise_weight, const float* depthwise_bias, float* out,
             long batch, long height, long width, long dim) {
  const Depthwise conv(depthwise_weight, depthwise_bias, dim, 1, 3, 2);
  const long middle_height = height / 2, middle_width = width / 2;
  const long out_height = height / 4, out_width = width / 4;
  const long rows = piece_rows(batch, out_height);
  const long pieces = (out_height + rows - 1) / rows;
  parallel(batch * pieces, [&](long piece) {
    const long image = piece / pieces, first = piece % pieces * rows;
    const long last = std::min(first + rows, out_height);
    const long top = std::max(2 * first - 1, 0L), bottom = 2 * last;
    const long count = (bottom - top) * middle_width;
    Buffer windows(count * TAPS), middle(count * dim);
    copy_windows(x + image * height * width * 3, height, width, top, bottom,
                 windows.data());
    matmul_nt(windows.data(), TAPS, weight, TAPS, middle.data(), dim, count, dim, TAPS);
    add_bias(middle.data(), bias, count, dim, true);
    float* to = out + (image * out_height + first) * out_width * dim;
    conv.rows(middle.data(), middle_height, middle_width, first, last, to, top);
    const long size = (last - first) * out_width * dim;
    for (long i = 0; i < size; i++) to[i] = gelu(to[i]);
  });
}
}
