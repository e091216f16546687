// The encoder's heavy steps on a Linux CPU, float32, channels last.
//
// MLX's CPU backend walks depthwise convolutions, erf and exp one number at a time;
// here they are vectors, and a block's hidden rows stay in the cache between its two
// matrix products. Work is cut into pieces of rows, one thread per core takes them in
// turn, and every product runs inside its thread. Compiled at first use by kernels.py.

#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include "depthwise.h"
#include "parallel.h"
#include "vector_math.h"

namespace {

constexpr long ROWS = 128;  // of queries per piece

// softmax(q @ k.T / sqrt(head_dim)) @ v for `count` queries and `length` keys, each ld
// floats apart. If causal, the last query sees all keys, the one before it one less.
void attend(const float* q, const float* k, const float* v, float* out, long count,
            long length, long head_dim, long ldq, long ldk, long ldo, bool causal) {
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
  Buffer scores(count * length);
  matmul_nt(q, ldq, k, ldk, scores.data(), length, count, length, head_dim);
  for (long i = 0; i < count; i++) {
    const long seen = causal ? length - count + i + 1 : length;
    float* row = &scores[i * length];
    softmax(row, seen, scale);
    std::fill(row + seen, row + length, 0.0f);
  }
  gemm(101, 111, 111, count, head_dim, length, 1, scores.data(), length, v, ldk, 0, out,
       ldo);
}

template <class F>
void elementwise(long size, F f, float* out) {
  const long step = 1 << 16;
  parallel((size + step - 1) / step, [&](long piece) {
    const long last = std::min((piece + 1) * step, size);
    for (long i = piece * step; i < last; i++) out[i] = f(i);
  });
}

}  // namespace

extern "C" {

void fv_init(Gemm product, SetThreads threads, long count, long outside) {
  gemm = product;
  set_threads = threads;
  cores = count;
  blas_threads = static_cast<int>(outside);
}

// Gives memory that was freed, but is kept for later, back to the system.
void fv_release_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

// x (batch, height, width, dim) -> out (batch, height / stride, width / stride,
// dim * multiplier); weight (dim * multiplier, kernel, kernel).
void fv_depthwise(const float* x, const float* weight, const float* bias, float* out,
                  long batch, long height, long width, long dim, long multiplier,
                  long kernel, long stride, long activate) {
  const Depthwise conv(weight, bias, dim, multiplier, kernel, stride);
  const long out_height = (height + stride - 1) / stride;
  const long out_width = (width + stride - 1) / stride;
  const long out_dim = dim * multiplier;
  const long rows = piece_rows(batch, out_height);
  const long pieces = (out_height + rows - 1) / rows;
  parallel(batch * pieces, [&](long piece) {
    const long image = piece / pieces, first = piece % pieces * rows;
    const long last = std::min(first + rows, out_height);
    float* to = out + (image * out_height + first) * out_width * out_dim;
    conv.rows(x + image * height * width * dim, height, width, first, last, to);
    const long size = (last - first) * out_width * out_dim;
    for (long i = 0; activate && i < size; i++) to[i] = gelu(to[i]);
  });
}

void fv_gelu(const float* x, float* out, long size) {
  elementwise(size, [&](long i) { return gelu(x[i]); }, out);
}

// x (rows, dim) -> out (rows, out_dim); weight (out_dim, dim).
void fv_linear(const float* x, const float* weight, const float* bias, float* out,
               long rows, long dim, long out_dim, long activate) {
  const long step = std::clamp(rows / cores, 1L, 1024L);
  parallel((rows + step - 1) / step, [&](long piece) {
    const long first = piece * step, count = std::min(step, rows - first);
    float* to = out + first * out_dim;
    matmul_nt(x + first * dim, dim, weight, dim, to, out_dim, count, out_dim, dim);
    add_bias(to, bias, count, out_dim, activate);
  });
}

// x + fc2(gelu(fc1(conv(x)))), x and out (batch, height, width, dim).
void fv_conv_ffn(const float* x, const float* conv_weight, const float* conv_bias,
                 const float* fc1, const float* bias1, const float* fc2,
                 const float* bias2, float* out, long batch, long height, long width,
                 long dim, long hidden_dim, long kernel) {
  const Depthwise conv(conv_weight, conv_bias, dim, 1, kernel, 1);
  const long rows = piece_rows(batch, height);
  const long pieces = (height + rows - 1) / rows;
  parallel(batch * pieces, [&](long piece) {
    const long image = piece / pieces, first = piece % pieces * rows;
    const long last = std::min(first + rows, height), count = (last - first) * width;
    const float* from = x + image * height * width * dim;
    Buffer mixed(count * dim), hidden(count * hidden_dim);
    conv.rows(from, height, width, first, last, mixed.data());
    matmul_nt(mixed.data(), dim, fc1, dim, hidden.data(), hidden_dim, count, hidden_dim,
              dim);
    add_bias(hidden.data(), bias1, count, hidden_dim, true);
    const float* skip = from + first * width * dim;
    float* to = out + image * height * width * dim + first * width * dim;
    for (long i = 0; i < count; i++)
      for (long c = 0; c < dim; c++) to[i * dim + c] = skip[i * dim + c] + bias2[c];
    matmul_nt(hidden.data(), hidden_dim, fc2, hidden_dim, to, dim, count, dim,
              hidden_dim, 1, 1);
  });
}

// qkv (batch, length, 3, heads, head_dim) -> out (batch, length, heads, head_dim).
void fv_attention(const float* qkv, float* out, long batch, long length, long heads,
                  long head_dim) {
  const long dim = heads * head_dim, pieces = (length + ROWS - 1) / ROWS;
  parallel(batch * heads * pieces, [&](long piece) {
    const long first = piece % pieces * ROWS, count = std::min(ROWS, length - first);
    const long start = piece / pieces / heads * length;
    const long head = piece / pieces % heads * head_dim;
    const float* keys = qkv + start * 3 * dim + dim + head;
    attend(qkv + (start + first) * 3 * dim + head, keys, keys + dim,
           out + (start + first) * dim + head, count, length, head_dim, 3 * dim,
           3 * dim, dim, false);
  });
}

// q (heads, length, head_dim), k and v (kv_heads, total, head_dim) -> out like q. The
// queries are the last `length` positions of `total`; each sees none after itself.
void fv_causal_attention(const float* q, const float* k, const float* v, float* out,
                         long heads, long kv_heads, long length, long total,
                         long head_dim) {
  const long pieces = (length + ROWS - 1) / ROWS;
  parallel(heads * pieces, [&](long piece) {
    const long head = piece / pieces, kv = head / (heads / kv_heads) * total * head_dim;
    const long first = piece % pieces * ROWS, count = std::min(ROWS, length - first);
    const long offset = (head * length + first) * head_dim;
    attend(q + offset, k + kv, v + kv, out + offset, count,
           total - length + first + count, head_dim, head_dim, head_dim, head_dim, true);
  });
}

// silu(gate) * up.
void fv_swiglu(const float* gate, const float* up, float* out, long size) {
  elementwise(size, [&](long i) { return silu(gate[i]) * up[i]; }, out);
}
}
