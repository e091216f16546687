// Linear layers whose weights stay in memory as they are stored: bfloat16, or MLX's
// affine quantization with 4 or 8 bits.
//
// Weights become float32 in registers, and sums are float32. A product of few rows reads
// the weights once; one of many rows widens some rows of the weight at a time for
// OpenBLAS, or multiplies in bfloat16 (`bfloat16_product.h`). In a vector of 32-bit words a shift gives one number of each word, so the
// numbers of a block come out interleaved; x is put in that order first.

#include <cstdint>
#include <cstring>

#include "bfloat16_product.h"
#include "parallel.h"

namespace {

constexpr long WIDTH = 8;  // of a vector, in numbers of 32 bits
constexpr long AHEAD = 4096;  // bytes that are fetched before they are needed
constexpr long FEW = 16, MANY_STEP = 256, FEW_STEP = 64;

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * WIDTH)));

inline const vec& at(const float* x) { return *reinterpret_cast<const vec*>(x); }

inline const words& words_at(const void* from) {
  __builtin_prefetch(static_cast<const char*>(from) + AHEAD);
  return *static_cast<const words*>(from);
}

inline float sum(vec v) {
  float total = 0;
  for (long i = 0; i < WIDTH; i++) total += v[i];
  return total;
}

// A form gives PER_WORD vectors for WIDTH words, that is BLOCK weights, from column c.
struct BFloat16 {
  static constexpr long PER_WORD = 2, BLOCK = WIDTH * PER_WORD;
  const uint16_t* weight;
  long dim;

  inline void load(long row, long c, vec* out) const {
    const words both = words_at(weight + row * dim + c);
    const words low = both << 16, high = both & 0xffff0000u;
    std::memcpy(&out[0], &low, sizeof low);
    std::memcpy(&out[1], &high, sizeof high);
  }
};

template <long BITS>
struct Quantized {
  static constexpr long PER_WORD = 32 / BITS, BLOCK = WIDTH * PER_WORD;
  const uint32_t* weight;
  const float *scales, *biases;
  long dim, group;

  inline void load(long row, long c, vec* out) const {
    words packed = words_at(weight + row * (dim / PER_WORD) + c / PER_WORD);
    const long first = row * (dim / group);
    const vec scale = of_halves(scales + first, c), bias = of_halves(biases + first, c);
    for (long k = 0; k < PER_WORD; k++, packed >>= BITS) {
      const integers numbers = (integers)(packed & ((1u << BITS) - 1));
      out[k] = __builtin_convertvector(numbers, vec) * scale + bias;
    }
  }

  // A block is of one group, or its halves are of two.
  inline vec of_halves(const float* values, long c) const {
    const float a = values[c / group], b = values[(c + BLOCK / 2) / group];
    return vec{a, a, a, a, b, b, b, b};
  }
};

// The dot products of one row of weights with R rows of x. The order of the sums does not
// depend on R: an answer is the same alone and in a batch.
template <class Form, long R>
inline void dot(const Form& form, long row, const float* x, float* out, long ldo) {
  constexpr long SUMS = 2;  // independent, to hide latency
  vec sums[R][SUMS] = {}, weights[Form::PER_WORD];
#pragma GCC unroll 2
  for (long c = 0; c < form.dim; c += Form::BLOCK) {
    form.load(row, c, weights);
#pragma GCC unroll 8
    for (long k = 0; k < Form::PER_WORD; k++)
#pragma GCC unroll 4
      for (long r = 0; r < R; r++)
        sums[r][k % SUMS] += weights[k] * at(x + r * form.dim + c + k * WIDTH);
  }
  for (long r = 0; r < R; r++) {
    for (long i = 1; i < SUMS; i++) sums[r][0] += sums[r][i];
    out[r * ldo] = sum(sums[r][0]);
  }
}

template <class Form>
void few_rows(const Form& form, const float* x, float* out, long rows, long out_dim,
              long first, long last) {
  for (long r = 0; r < rows; r += 4)
    for (long o = first; o < last; o++) {
      const float* from = x + r * form.dim;
      float* to = out + r * out_dim + o;
      switch (std::min(rows - r, 4L)) {
        case 1: dot<Form, 1>(form, o, from, to, out_dim); break;
        case 2: dot<Form, 2>(form, o, from, to, out_dim); break;
        case 3: dot<Form, 3>(form, o, from, to, out_dim); break;
        default: dot<Form, 4>(form, o, from, to, out_dim);
      }
    }
}

template <class Form>
void many_rows(const Form& form, const float* x, float* out, long rows, long out_dim,
               long first, long last) {
  const long dim = form.dim;
  thread_local Buffer wide;
  wide.resize(std::max<long>(wide.size(), (last - first) * dim));
  for (long o = first; o < last; o++)
    for (long c = 0; c < dim; c += Form::BLOCK) {
      vec weights[Form::PER_WORD];
      form.load(o, c, weights);
      std::memcpy(&wide[(o - first) * dim + c], weights, sizeof weights);
    }
  matmul_nt(x, dim, wide.data(), dim, out + first, out_dim, rows, last - first, dim);
}

// x in the order in which a form gives weights.
template <class Form>
Buffer interleaved(const float* x, long size) {
  Buffer mixed(size);
  for (long i = 0; i < size; i += Form::BLOCK)
    for (long k = 0; k < Form::PER_WORD; k++)
      for (long j = 0; j < WIDTH; j++)
        mixed[i + k * WIDTH + j] = x[i + j * Form::PER_WORD + k];
  return mixed;
}

template <class Form>
void linear(const Form& form, const float* x, const float* bias, float* out, long rows,
            long out_dim) {
  const Buffer mixed = interleaved<Form>(x, rows * form.dim);
  const bool few = rows <= FEW;
  const long step = few ? FEW_STEP : MANY_STEP;
  parallel((out_dim + step - 1) / step, [&](long piece) {
    const long first = piece * step, last = std::min(first + step, out_dim);
    (few ? few_rows<Form> : many_rows<Form>)(form, mixed.data(), out, rows, out_dim,
                                             first, last);
    for (long r = 0; bias && r < rows; r++)
      for (long o = first; o < last; o++) out[r * out_dim + o] += bias[o];
  });
}

// Many rows of x, rounded, by one panel of the weight at a time. `weight` gives some of
// its rows, from one on, in bfloat16.
template <class Weight>
void linear_in_bfloat16(const float* x, const Weight& weight, const float* bias,
                        float* out, long rows, long dim, long out_dim) {
  using namespace bfloat16;
  const long ldx = pitch(dim);
  Numbers short_x(whole(rows, TILE) * ldx);
  parallel((rows + FEW - 1) / FEW, [&](long piece) {
    for (long r = piece * FEW; r < std::min(rows, (piece + 1) * FEW); r++)
      round(x + r * dim, &short_x[r * ldx], dim);
  });
  parallel((out_dim + PANEL - 1) / PANEL, [&](long piece) {
    const long first = piece * PANEL, count = std::min(PANEL, out_dim - first);
    thread_local Numbers panel;
    panel.resize(panel_size(dim));
    pack(weight(first, count), dim, count, dim, panel.data());
    for (long r = 0; r < rows; r += BLOCK) {
      const long some = std::min(BLOCK, rows - r);
      float* to = out + r * out_dim + first;
      panel_product(&short_x[r * ldx], panel.data(), to, out_dim, some, dim, count);
      for (long i = 0; bias && i < some; i++)
        for (long o = 0; o < count; o++) to[i * out_dim + o] += bias[first + o];
    }
  });
}

bool in_bfloat16(long rows) { return rows > FEW && bfloat16::form != bfloat16::OFF; }

template <class Form>
void linear_quantized(const Form& form, const float* x, const float* bias, float* out,
                      long rows, long out_dim) {
  if (!in_bfloat16(rows)) return linear(form, x, bias, out, rows, out_dim);
  const long dim = form.dim;
  const auto weight = [&](long first, long count) {
    thread_local bfloat16::Numbers rounded;
    rounded.resize(count * dim);
    for (long o = 0; o < count; o++)
      for (long c = 0; c < dim; c += Form::BLOCK) {
        float numbers[Form::BLOCK];
        form.load(first + o, c, reinterpret_cast<vec*>(numbers));
        bfloat16::round(numbers, &rounded[o * dim + c], Form::BLOCK);
      }
    return rounded.data();
  };
  const Buffer mixed = interleaved<Form>(x, rows * dim);
  linear_in_bfloat16(mixed.data(), weight, bias, out, rows, dim, out_dim);
}

}  // namespace

extern "C" {

// x (rows, dim) @ weight (out_dim, dim).T + bias -> out (rows, out_dim), with `bias`
// only if has_bias. dim is a multiple of 64.
void fv_linear_bfloat16(const float* x, const uint16_t* weight, const float* bias,
                        float* out, long rows, long dim, long out_dim, long has_bias) {
  const float* added = has_bias ? bias : nullptr;
  const auto stored = [&](long first, long) { return weight + first * dim; };
  if (in_bfloat16(rows))
    linear_in_bfloat16(x, stored, added, out, rows, dim, out_dim);
  else
    linear(BFloat16{weight, dim}, x, added, out, rows, out_dim);
}

// Whether the processor multiplies bfloat16 numbers.
long fv_has_native_bfloat16() { return bfloat16::HAS_NATIVE; }

// How products of many rows with a bfloat16 weight are computed, one of `Form`.
void fv_use_bfloat16(long form) { bfloat16::form = static_cast<bfloat16::Form>(form); }

long fv_bfloat16_form() { return bfloat16::form; }

// As above; weight (out_dim, dim * bits / 32), scales and biases (out_dim, dim / group).
void fv_linear_quantized(const float* x, const uint32_t* weight, const float* scales,
                         const float* biases, const float* bias, float* out, long rows,
                         long dim, long out_dim, long has_bias, long group, long bits) {
  const float* added = has_bias ? bias : nullptr;
  if (bits == 4)
    linear_quantized(Quantized<4>{weight, scales, biases, dim, group}, x, added, out,
                     rows, out_dim);
  else
    linear_quantized(Quantized<8>{weight, scales, biases, dim, group}, x, added, out,
                     rows, out_dim);
}
}
