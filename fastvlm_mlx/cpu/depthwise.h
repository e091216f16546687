// A depthwise convolution as vectors: MLX's CPU backend walks it one number at a time.

#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "vector_math.h"

// A depthwise convolution, zero-padded to keep the grid.
//
// It takes LANES channels at a time: what it needs of them is copied side by side, with
// zeros around the image, so the inner loop knows no borders and stays in the cache.
//
// Which products of a sum GCC adds first depends on how it finds their addresses: pointers
// to the rows and a `pitch` that it does not know keep the order, and so the bits.
class Depthwise {
 public:
  long dim, multiplier, kernel, stride;

  Depthwise(const float* w, const float* b, long dim, long multiplier, long kernel,
            long stride)
      : dim(dim), multiplier(multiplier), kernel(kernel), stride(stride),
        out_dim(dim * multiplier), taps(kernel * kernel),
        weight((out_dim + LANES - 1) / LANES * LANES * taps),
        bias((out_dim + LANES - 1) / LANES * LANES) {
    for (long c = 0; c < out_dim; c++)
      for (long t = 0; t < taps; t++)
        weight[(c / LANES * taps + t) * LANES + c % LANES] = w[c * taps + t];
    std::copy(b, b + out_dim, bias.begin());
  }

  // Output rows first ... last - 1 of one image x (height, width, dim) into out. Only
  // the rows from `from` on are at x: a caller may have made no others.
  void rows(const float* x, long height, long width, long first, long last, float* out,
            long from = 0) const {
    const long pad = kernel / 2, out_width = (width + stride - 1) / stride;
    const long top = first * stride - pad, bottom = (last - 1) * stride - pad + kernel;
    const long size = (width + 2 * pad) * LANES;  // of a row
    Buffer channels((bottom - top) * size);
    for (long c = 0; c < out_dim; c += LANES) {
      for (long row = std::max(top, 0L); row < std::min(bottom, height); row++)
        copy_row(x + (row - from) * width * dim, c, width,
                 &channels[(row - top) * size + pad * LANES]);
      for (long row = first; row < last; row++) {
        const float* window[MOST];
        for (long y = 0; y < kernel; y++)
          window[y] = &channels[((row - first) * stride + y) * size];
        float* to = out + (row - first) * out_width * out_dim + c;
        if (kernel == 3)
          stride == 1 ? line<3, 1, NEIGHBOURS>(window, to, out_width, c)
                      : line<3, 2, NEIGHBOURS>(window, to, out_width, c);
        else
          stride == 1 ? line<7, 1, MANY>(window, to, out_width, c)
                      : line<7, 2, MANY>(window, to, out_width, c);
      }
    }
  }

 private:
  typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

  // Neighbours whose sums stay in registers; of the large kernel as many as fit.
  static constexpr int NEIGHBOURS = 4;
#ifdef __AVX512F__
  static constexpr int MANY = 8;
#else
  static constexpr int MANY = NEIGHBOURS;
#endif
  static constexpr int MOST = 7;  // rows of a kernel

  long out_dim, taps, pitch = LANES;
  Buffer weight, bias;

  // LANES channels from c on, of a row of x.
  void copy_row(const float* x, long c, long width, float* to) const {
    const long count = std::min(LANES, out_dim - c);
    for (long i = 0; i < width; i++, to += LANES, x += dim)
      if (multiplier > 1)
        for (long j = 0; j < count; j++) to[j] = x[(c + j) / multiplier];
      else if (count == LANES)
        std::memcpy(to, x + c, LANES * sizeof(float));
      else
        std::memcpy(to, x + c, count * sizeof(float));
  }

  template <int K, int S, int TILE>
  void line(const float* const* window, float* out, long width, long c) const {
    long i = 0;
    for (; i + TILE <= width; i += TILE) tile<K, S, TILE>(window, out, i, c);
    for (; i < width; i++) tile<K, S, 1>(window, out, i, c);
  }

  // T neighbouring outputs of LANES channels.
  template <int K, int S, int T>
  inline void tile(const float* const* window, float* out, long i, long c) const {
    vec sum[T];
    for (int t = 0; t < T; t++) sum[t] = at(&bias[c]);
    for (int y = 0; y < K; y++) {
      const float* x = window[y] + i * S * pitch;
      const float* w = &weight[c * taps + y * K * pitch];
#pragma GCC unroll 8
      for (int k = 0; k < K; k++) {
        const vec tap = at(w + k * pitch);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) sum[t] += tap * at(x + (k + t * S) * pitch);
      }
    }
    const size_t bytes = std::min(LANES, out_dim - c) * sizeof(float);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      float* to = out + (i + t) * out_dim;
      if (bytes == sizeof(vec))
        std::memcpy(to, &sum[t], sizeof(vec));
      else
        std::memcpy(to, &sum[t], bytes);
    }
  }

  static const vec& at(const float* x) { return *reinterpret_cast<const vec*>(x); }
};

// Rows per piece: enough pieces for all cores, few enough that products stay large.
inline long piece_rows(long batch, long height) {
  return std::clamp(batch * height / cores, 1L, std::min(4L, height));
}
