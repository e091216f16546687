// Products of few rows with stored weights, whatever their form: each weight is read once.

#pragma once

#include "bfloat16_rows.h"
#include "float_product.h"
#include "quantized_product.h"

namespace stored {

constexpr long FEW = 64;  // rows; of more, a product that opens the weight first is faster

// A quantized weight that becomes bfloat16, some rows at a time: for several rows of x that
// takes less time than products in integers.
template <class Arithmetic>
struct Opened {
  using Form = Rounded<Arithmetic, 1>;
  Matrix matrix;
  explicit Opened(const Matrix& m) : matrix(m) {}
};

template <class Arithmetic>
inline Buffer prepared(const Opened<Arithmetic>& opened, const float* x, long rows) {
  Buffer out;
  in_form(opened.matrix, [&](auto form) {
    const Buffer mixed = interleaved<decltype(form)>(x, rows, form.dim);
    out = prepared(typename Opened<Arithmetic>::Form(opened.matrix), mixed.data(), rows);
  });
  return out;
}

template <class Arithmetic, class F>
inline void in_bfloat16(const Matrix& m, bool precise, F f) {
  if (m.bits < 16)
    f(Opened<Arithmetic>(m));
  else if (precise)
    f(Rounded<Arithmetic, 2>(m));
  else
    f(Rounded<Arithmetic, 1>(m));
}

// Calls f with the form in which few rows multiply with `m`.
// If `precise`, x counts with 16 bits where it is rounded: for single tokens.
template <class F>
inline void in_form_for_few(const Matrix& m, bool precise, F f) {
  using namespace bfloat16;
  if (form == OFF || (m.bits < 16 && precise))
    in_form(m, f);
  else if (form == NATIVE)
    in_bfloat16<Native>(m, precise, f);
  else
    in_bfloat16<Emulated>(m, precise, f);
}

// x (rows, pitch), prepared, by the weights' rows `first` to `last`: R rows of x at a time,
// then what is left of them.
template <class Form, long R = Form::ROWS>
inline void few_rows(const Form& form, const float* x, float* out, long rows, long ldo,
                     long first, long last) {
  constexpr long OUT = Form::OUT;
  const long ldx = pitch(form);
  for (; rows >= R; rows -= R, x += R * ldx, out += R * ldo) {
    long o = first;
    for (; o + OUT <= last; o += OUT) tile<R, OUT>(form, o, x, out + o, ldo);
    for (; o < last; o++) tile<R, 1>(form, o, x, out + o, ldo);
  }
  if constexpr (R > 1) few_rows<Form, R - 1>(form, x, out, rows, ldo, first, last);
}

template <class Arithmetic>
inline void few_rows(const Opened<Arithmetic>& opened, const float* x, float* out,
                     long rows, long ldo, long first, long last) {
  typename Opened<Arithmetic>::Form form(opened.matrix);
  for (long o = first; o < last; o += bfloat16::PANEL) {
    const long count = std::min(bfloat16::PANEL, last - o);
    form.weight = opened_to_bfloat16(opened.matrix, o, count);
    few_rows(form, x, out + o, rows, ldo, 0, count);
  }
}

}  // namespace stored
