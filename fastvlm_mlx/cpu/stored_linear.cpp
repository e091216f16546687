// Linear layers whose weights stay in memory as they are stored (`stored_weights.h`).
//
// A product of few rows reads the weights once; one of many rows widens some rows of the
// weight at a time for OpenBLAS, or multiplies in bfloat16 (`many_rows.h`).

#include "few_rows.h"
#include "many_rows.h"

namespace {

using namespace stored;

constexpr long PRECISE = 16;  // rows that count with more bits in bfloat16
// Rows of a weight per piece of work.
constexpr long MANY_STEP = 256, FEW_STEP = 64, PANEL_STEP = bfloat16::PANEL;

template <class Form>
void many_rows(const Form& form, const float* x, float* out, long rows, long out_dim,
               long first, long last) {
  const long dim = form.dim;
  thread_local Buffer weight;
  weight.resize(std::max<long>(weight.size(), (last - first) * dim));
  float* const wide = weight.data();  // to find it for each block takes longer
  open_rows(form, first, last - first, [&](long o, long c, const float* weights) {
    std::copy_n(weights, Form::BLOCK, wide + o * dim + c);
  });
  matmul_nt(x, dim, wide, dim, out + first, out_dim, rows, last - first, dim);
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

void linear_in_bfloat16(const Matrix& m, const float* x, float* out, long rows) {
  const ManyRows ready(m, x, rows);
  parallel((m.out_dim + PANEL_STEP - 1) / PANEL_STEP, [&](long piece) {
    const long first = piece * PANEL_STEP;
    ready.product(m, out, first, std::min(first + PANEL_STEP, m.out_dim));
  });
}

void linear(const Matrix& m, const float* x, float* out, long rows) {
  if (rows <= FEW)
    linear_of_few(m, x, out, rows);
  else if (bfloat16::form == bfloat16::OFF)
    linear_of_many(m, x, out, rows);
  else
    linear_in_bfloat16(m, x, out, rows);
}

}  // namespace

extern "C" {

// x (rows, dim) @ weight (out_dim, dim).T + bias -> out (rows, out_dim), with `bias`
// only if has_bias. dim is a multiple of 64.
void fv_linear_bfloat16(const float* x, const uint16_t* weight, const float* bias,
                        float* out, long rows, long dim, long out_dim, long has_bias) {
  linear({weight, nullptr, nullptr, has_bias ? bias : nullptr, dim, out_dim, 0, 16, 0},
         x, out, rows);
}

// Whether the processor multiplies bfloat16 numbers.
long fv_has_native_bfloat16() { return bfloat16::HAS_NATIVE; }

// How products of many rows with a bfloat16 weight are computed, one of `Form`.
void fv_use_bfloat16(long form) { bfloat16::form = static_cast<bfloat16::Form>(form); }

long fv_bfloat16_form() { return bfloat16::form; }

// As above; weight (out_dim, dim * bits / 32), scales and biases (out_dim, dim / group) of
// `scale_bits`.
void fv_linear_quantized(const float* x, const uint32_t* weight, const void* scales,
                         const void* biases, const float* bias, float* out, long rows,
                         long dim, long out_dim, long has_bias, long group, long bits,
                         long scale_bits) {
  linear({weight, scales, biases, has_bias ? bias : nullptr, dim, out_dim, group, bits,
          scale_bits},
         x, out, rows);
}
}
