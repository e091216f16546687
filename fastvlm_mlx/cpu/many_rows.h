// Products of many rows with stored weights, in bfloat16 (`bfloat16_product.h`): some rows
// of a weight are packed at a time, so memory does not grow with the model.

#pragma once

#include "bfloat16_product.h"
#include "stored_weights.h"

namespace stored {

// Rows of x, rounded, in the order in which a weight of the form of `m` gives its numbers.
class ManyRows {
 public:
  ManyRows(const Matrix& m, const float* x, long rows)
      : rows(rows), ldx(bfloat16::pitch(m.dim)),
        numbers(bfloat16::whole(rows, bfloat16::TILE) * ldx) {
    if (m.bits == 16)
      round(x, m.dim);
    else
      in_form(m, [&](auto form) {
        round(interleaved<decltype(form)>(x, rows, m.dim).data(), m.dim);
      });
  }

  // x @ weight.T + bias -> out (rows, out_dim), of the weight's rows `first` to `last`.
  void product(const Matrix& m, float* out, long first, long last) const {
    using namespace bfloat16;
    thread_local Numbers panel;
    panel.resize(panel_size(m.dim));
    for (long o = first; o < last; o += PANEL) {
      const long count = std::min(PANEL, last - o);
      pack(opened_to_bfloat16(m, o, count), m.dim, count, m.dim, panel.data());
      for (long r = 0; r < rows; r += BLOCK)
        panel_product(&numbers[r * ldx], panel.data(), std::min(BLOCK, rows - r), m.dim,
                      [&](long i, const float* sums) {
                        float* to = out + (r + i) * m.out_dim + o;
                        for_columns(count, [&](long c) {
                          to[c] = sums[c] + (m.bias ? m.bias[o + c] : 0);
                        });
                      });
    }
  }

 private:
  void round(const float* x, long dim) {
    parallel((rows + STEP - 1) / STEP, [&](long piece) {
      for (long r = piece * STEP; r < std::min(rows, (piece + 1) * STEP); r++)
        bfloat16::round(x + r * dim, &numbers[r * ldx], dim);
    });
  }

  static constexpr long STEP = 64;  // rows that a thread rounds in one go

  long rows, ldx;
  bfloat16::Numbers numbers;
};

}  // namespace stored
