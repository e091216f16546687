// Linear layers whose weights stay in memory as they are stored (`stored_weights.h`).
//
// A product of few rows reads the weights once; one of many rows widens some rows of the
// weight at a time for OpenBLAS, or multiplies in bfloat16 (`bfloat16_product.h`).

#include "bfloat16_product.h"
#include "few_rows.h"

namespace {

using namespace stored;

constexpr long FEW = 64;      // rows
constexpr long PRECISE = 16;  // rows that count with more bits in bfloat16
constexpr long MANY_STEP = 256, FEW_STEP = 64;

template <class Form>
void many_rows(const Form& form, const float* x, float* out, long rows, long out_dim,
               long first, long last) {
  const long dim = form.dim;
  thread_local Buffer wide;
  wide.resize(std::max<long>(wide.size(), (last - first) * dim));
  for (long o = first; o < last; o++)
    for (long c = 0; c < dim; c += Form::BLOCK) {
      const auto block = form.open(o, c);
      for (long k = 0; k < Form::PER_WORD; k++) {
        const vec weights = block.weights(k);
        std::memcpy(&wide[(o - first) * dim + c + k * WIDTH], &weights, sizeof weights);
      }
    }
  matmul_nt(x, dim, wide.data(), dim, out + first, out_dim, rows, last - first, dim);
}

// f(first, last) for pieces of `step` rows of the weight, and the bias added to what it
// made.
template <class F>
void in_pieces(const Matrix& m, long step, float* out, long rows, F f) {
  parallel((m.out_dim + step - 1) / step, [&](long piece) {
    const long first = piece * step, last = std::min(first + step, m.out_dim);
    f(first, last);
    for (long r = 0; m.bias && r < rows; r++)
      for (long o = first; o < last; o++) out[r * m.out_dim + o] += m.bias[o];
  });
}

void linear_of_few(const Matrix& m, const float* x, float* out, long rows) {
  in_form_for_few(m, rows <= PRECISE, [&](auto form) {
    const Buffer ready = prepared(form, x, rows);
    in_pieces(m, FEW_STEP, out, rows, [&](long first, long last) {
      few_rows(form, ready.data(), out, rows, m.out_dim, first, last);
    });
  });
}

void linear_of_many(const Matrix& m, const float* x, float* out, long rows) {
  in_form(m, [&](auto form) {
    const Buffer mixed = interleaved<decltype(form)>(x, rows, m.dim);
    in_pieces(m, MANY_STEP, out, rows, [&](long first, long last) {
      many_rows(form, mixed.data(), out, rows, m.out_dim, first, last);
    });
  });
}

// Many rows of x, rounded, by one panel of the weight at a time. `weight` gives some of
// its rows, from one on, in bfloat16.
template <class Weight>
void linear_in_bfloat16(const float* x, const Weight& weight, const float* bias,
                        float* out, long rows, long dim, long out_dim) {
  using namespace bfloat16;
  const long ldx = bfloat16::pitch(dim);
  Numbers short_x(whole(rows, TILE) * ldx);
  parallel((rows + FEW_STEP - 1) / FEW_STEP, [&](long piece) {
    for (long r = piece * FEW_STEP; r < std::min(rows, (piece + 1) * FEW_STEP); r++)
      round(x + r * dim, &short_x[r * ldx], dim);
  });
  parallel((out_dim + PANEL - 1) / PANEL, [&](long piece) {
    const long first = piece * PANEL, count = std::min(PANEL, out_dim - first);
    thread_local Numbers panel;
    panel.resize(panel_size(dim));
    pack(weight(first, count), dim, count, dim, panel.data());
    for (long r = 0; r < rows; r += BLOCK) {
      const long some = std::min(BLOCK, rows - r);
      panel_product(&short_x[r * ldx], panel.data(), some, dim,
                    [&](long i, const float* sums) {
                      float* to = out + (r + i) * out_dim + first;
                      for_columns(count, [&](long c) {
                        to[c] = sums[c] + (bias ? bias[first + c] : 0);
                      });
                    });
    }
  });
}

// The weight of a form that is not bfloat16 is rounded to it.
template <class Form>
void linear_rounded(const Form& form, const float* x, const float* bias, float* out,
                    long rows, long out_dim) {
  const long dim = form.dim;
  const auto weight = [&](long first, long count) {
    thread_local bfloat16::Numbers rounded;
    rounded.resize(count * dim);
    for (long o = 0; o < count; o++)
      for (long c = 0; c < dim; c += Form::BLOCK) {
        const auto block = form.open(first + o, c);
        vec numbers[Form::PER_WORD];
        for (long k = 0; k < Form::PER_WORD; k++) numbers[k] = block.weights(k);
        bfloat16::round(reinterpret_cast<const float*>(numbers), &rounded[o * dim + c],
                        Form::BLOCK);
      }
    return rounded.data();
  };
  const Buffer mixed = interleaved<Form>(x, rows, dim);
  linear_in_bfloat16(mixed.data(), weight, bias, out, rows, dim, out_dim);
}

void linear(const Matrix& m, const float* x, float* out, long rows) {
  const auto stored = [&](long first, long) {
    return static_cast<const uint16_t*>(m.weight) + first * m.dim;
  };
  if (rows <= FEW)
    linear_of_few(m, x, out, rows);
  else if (bfloat16::form == bfloat16::OFF)
    linear_of_many(m, x, out, rows);
  else if (m.bits == 16)
    linear_in_bfloat16(x, stored, m.bias, out, rows, m.dim, m.out_dim);
  else
    in_form(m, [&](auto form) { linear_rounded(form, x, m.bias, out, rows, m.out_dim); });
}

}  // namespace

extern "C" {

// x (rows, dim) @ weight (out_dim, dim).T + bias -> out (rows, out_dim), with `bias`
// only if has_bias. dim is a multiple of 64.
void fv_linear_bfloat16(const float* x, const uint16_t* weight, const float* bias,
                        float* out, long rows, long dim, long out_dim, long has_bias) {
  linear({weight, nullptr, nullptr, has_bias ? bias : nullptr, dim, out_dim, 0, 16}, x,
         out, rows);
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
  linear({weight, scales, biases, has_bias ? bias : nullptr, dim, out_dim, group, bits},
         x, out, rows);
}
}
