// A convolutional FFN with weights that are made ready for a product a part at a time.

#pragma once

#include <algorithm>
#include <vector>

#include "depthwise.h"
#include "parallel.h"

// x + fc2(gelu(fc1(conv(x)))), x and out (batch, height, width, dim). A part is some of the
// hidden channels: rows of fc1, columns of fc2.
//
// ready(start, channels) prepares both weights' part. add(rows, count, start, channels, to)
// adds what its channels make of `count` positions (count, dim) to `to`; many threads call
// it at once.
template <class Ready, class Add>
void conv_ffn_in_parts(const float* x, const Depthwise& conv, const float* bias2,
                       float* out, long batch, long height, long width, long hidden_dim,
                       long part, Ready ready, Add add) {
  // A piece copies rows above and below it, so it has several; a product likes many too.
  const long dim = conv.dim, most = std::max(4L, 512 / width);
  const long rows = std::clamp(batch * height / cores, 1L, std::min(most, height));
  const long pieces = (height + rows - 1) / rows;
  std::vector<Buffer> mixed(batch * pieces);
  for (long start = 0; start < hidden_dim; start += part) {
    const long channels = std::min(part, hidden_dim - start);
    ready(start, channels);
    parallel(batch * pieces, [&](long piece) {
      const long image = piece / pieces, first = piece % pieces * rows;
      const long last = std::min(first + rows, height), count = (last - first) * width;
      const float* from = x + image * height * width * dim;
      const float* skip = from + first * width * dim;
      float* to = out + image * height * width * dim + first * width * dim;
      if (start == 0) {
        mixed[piece].resize(count * dim);
        conv.rows(from, height, width, first, last, mixed[piece].data());
        for (long i = 0; i < count; i++)
          for (long c = 0; c < dim; c++) to[i * dim + c] = skip[i * dim + c] + bias2[c];
      }
      add(mixed[piece].data(), count, start, channels, to);
      if (start + channels == hidden_dim) Buffer().swap(mixed[piece]);
    });
  }
}
