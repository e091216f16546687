// Products of few rows with stored weights, whatever their form: each weight is read once.

#pragma once

#include "bfloat16_rows.h"
#include "float_product.h"
#include "quantized_product.h"

namespace stored {

constexpr long FEW = 64;  // rows; of more, a product that opens the weight first is faster

// Calls f with the form in which few rows multiply with `m`.
// If `precise`, x counts with 16 bits where it is rounded: for single tokens.
template <class F>
inline void in_form_for_few(const Matrix& m, bool precise, F f) {
  using namespace bfloat16;
  if (m.bits < 16 || form == OFF)
    in_form(m, f);
  else if (form == NATIVE)
    precise ? f(Rounded<Native, 2>(m)) : f(Rounded<Native, 1>(m));
  else
    precise ? f(Rounded<Emulated, 2>(m)) : f(Rounded<Emulated, 1>(m));
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

}  // namespace stored
