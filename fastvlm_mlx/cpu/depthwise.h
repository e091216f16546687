// A depthwise convolution as vectors: MLX's CPU backend walks it one number at a time.

#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "vector_math.h"

// A depthwise convolution, zero-padded to keep the grid.
//
// Input rows are copied once into a ring of padded rows, so the inner loop knows no
// borders. A position there takes `pitch` floats: whole vectors, and an odd number of
// cache lines for the usual widths, or neighbours would share one cache set.
class Depthwise {
 public:
  long dim, multiplier, kernel, stride;

  Depthwise(const float* w, const float* b, long dim, long multiplier, long kernel,
            long stride)
      : dim(dim), multiplier(multiplier), kernel(kernel), stride(stride),
        pitch((dim * multiplier + LANES - 1) / LANES * LANES + LANES),
        weight(kernel * kernel * pitch), bias(pitch) {
    const long taps = kernel * kernel, out_dim = dim * multiplier;
    for (long c = 0; c < out_dim; c++)
      for (long t = 0; t < taps; t++) weight[t * pitch + c] = w[c * taps + t];
    std::copy(b, b + out_dim, bias.begin());
  }

  // Output rows first ... last - 1 of one image x (height, width, dim) into out. Only
  // the rows from `from` on are at x: a caller may have made no others.
  void rows(const float* x, long height, long width, long first, long last, float* out,
            long from = 0) const {
    const long pad = kernel / 2, out_width = (width + stride - 1) / stride;
    const long size = (width + 2 * pad) * pitch;
    Buffer ring(kernel * size);
    std::vector<const float*> window(kernel);
    long next = first * stride - pad;
    for (long row = first; row < last; row++) {
      const long top = row * stride - pad;
      for (; next < top + kernel; next++) {
        float* line = &ring[(next + kernel) % kernel * size];
        const bool inside = 0 <= next && next < height;
        copy_row(inside ? x + (next - from) * width * dim : nullptr, width,
                 line + pad * pitch);
      }
      for (long k = 0; k < kernel; k++)
        window[k] = &ring[(top + k + kernel) % kernel * size];
      if (kernel == 3)
        stride == 1 ? line<3, 1>(window.data(), out, out_width)
                    : line<3, 2>(window.data(), out, out_width);
      else
        stride == 1 ? line<7, 1>(window.data(), out, out_width)
                    : line<7, 2>(window.data(), out, out_width);
      out += out_width * dim * multiplier;
    }
  }

 private:
  typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

  long pitch;
  Buffer weight, bias;

  void copy_row(const float* x, long width, float* line) const {
    for (long i = 0; i < width; i++, line += pitch)
      if (!x)
        std::fill(line, line + dim * multiplier, 0.0f);
      else if (multiplier == 1)
        std::memcpy(line, x + i * dim, dim * sizeof(float));
      else
        for (long c = 0; c < dim * multiplier; c++) line[c] = x[i * dim + c / multiplier];
  }

  template <int K, int S>
  void line(const float* const* window, float* out, long width) const {
    constexpr int TILE = 4;
    for (long c = 0; c < dim * multiplier; c += LANES) {
      long i = 0;
      for (; i + TILE <= width; i += TILE) tile<K, S, TILE>(window, out, i, c);
      for (; i < width; i++) tile<K, S, 1>(window, out, i, c);
    }
  }

  // T neighbouring outputs of LANES channels; their inputs overlap in registers.
  template <int K, int S, int T>
  inline void tile(const float* const* window, float* out, long i, long c) const {
    vec sum[T];
    for (int t = 0; t < T; t++) sum[t] = *reinterpret_cast<const vec*>(&bias[c]);
    for (int y = 0; y < K; y++) {
      const float* x = window[y] + i * S * pitch + c;
      const float* w = &weight[y * K * pitch + c];
#pragma GCC unroll 8
      for (int k = 0; k < K; k++) {
        const vec tap = *reinterpret_cast<const vec*>(w + k * pitch);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
          sum[t] += tap * *reinterpret_cast<const vec*>(x + (k + t * S) * pitch);
      }
    }
    const long out_dim = dim * multiplier;
    for (int t = 0; t < T; t++) {
      float* to = out + (i + t) * out_dim + c;
      if (out_dim - c >= LANES)
        *reinterpret_cast<vec*>(to) = sum[t];
      else
        std::memcpy(to, &sum[t], (out_dim - c) * sizeof(float));
    }
  }
};

// Rows per piece: enough pieces for all cores, few enough that products stay large.
inline long piece_rows(long batch, long height) {
  return std::clamp(batch * height / cores, 1L, std::min(4L, height));
}
