// The layers of a Qwen2 or Llama decoder, weights as stored: for a token of an answer, a
// step of several answers, or a question; for a whole prompt where its products are in
// bfloat16.
//
// All of it is one call: seven linear layers, and MLX's operations between them, would wake
// threads and wait for them some thirty times a layer, which takes as long as reading the
// weights. Every sum is of one position alone, so an answer does not depend on the others.

#include <cmath>
#include <optional>

#include "decoder_attention.h"
#include "few_rows.h"
#include "many_rows.h"
#include "vector_math.h"

using namespace decoder;
using namespace stored;

extern "C" {

struct DecoderLayer {
  Matrix q, k, v, o, gate, up, down;
  const float *attention_norm, *mlp_norm;  // of RMSNorm, (dim)
  long heads, kv_heads, head_dim;
  float epsilon, scale;
};

// The KV cache of one sequence: keys and values (kv_heads, capacity, head_dim), of which
// the first `length` positions are filled.
struct Cached {
  const float *keys, *values;
  long capacity, length;
};
}

namespace {

constexpr long STEP = 64;      // rows of a weight, and of x, per piece of work
constexpr long QUERIES = 128;  // of a head per piece of work

// The positions that a call computes: `length` of each sequence, after those it cached.
struct Step {
  long sequences, length;
  const float* rotation;  // (rows, head_dim): the cosines of a position's angles, the sines
  long rows() const { return sequences * length; }
};

// What several products take: rows of x, prepared for each form that one of them has.
class Input {
 public:
  Input(const Buffer& x, const Step& step)
      : x(x.data()), rows(step.rows()), precise(step.length == 1) {}

  // Before the product, outside the threads.
  void prepare(const Matrix& m) {
    if (rows > FEW) {
      if (auto& ready = many[place(m)]; !ready) ready.emplace(m, x, rows);
    } else
      in_form_for_few(m, precise, [&](auto form) {
        if (auto& ready = few[place(m)]; ready.empty()) ready = prepared(form, x, rows);
      });
  }

  // x @ weight.T + bias of the weight's rows `first` to `last`.
  void product(const Matrix& m, float* out, long first, long last) const {
    if (rows > FEW) return many[place(m)]->product(m, out, first, last);
    in_form_for_few(m, precise, [&](auto form) {
      few_rows(form, few[place(m)].data(), out, rows, m.out_dim, first, last);
    });
    for (long r = 0; m.bias && r < rows; r++)
      for (long i = first; i < last; i++) out[r * m.out_dim + i] += m.bias[i];
  }

 private:
  static long place(const Matrix& m) { return m.bits == 16 ? 0 : m.bits == 8 ? 1 : 2; }

  const float* x;
  long rows;
  bool precise;
  Buffer few[3];
  std::optional<ManyRows> many[3];
};

long pieces(const Matrix& m) { return (m.out_dim + STEP - 1) / STEP; }

// f(first, last) for the rows of piece number `piece` of `m`.
template <class F>
void at_piece(const Matrix& m, long piece, F f) {
  f(piece * STEP, std::min((piece + 1) * STEP, m.out_dim));
}

// f(row) for all rows; of many, all cores take some.
template <class F>
void for_rows(long rows, F f) {
  if (rows <= FEW)
    for (long r = 0; r < rows; r++) f(r);
  else
    parallel((rows + STEP - 1) / STEP, [&](long piece) {
      for (long r = piece * STEP; r < std::min(rows, (piece + 1) * STEP); r++) f(r);
    });
}

Buffer rms_norm(const Buffer& x, const float* weight, long rows, float epsilon) {
  const long dim = x.size() / rows;
  Buffer out(x.size());
  for_rows(rows, [&](long r) {
    const float* row = &x[r * dim];
    float squares = 0;
    for (long i = 0; i < dim; i++) squares += row[i] * row[i];
    const float factor = 1 / std::sqrt(squares / dim + epsilon);
    for (long i = 0; i < dim; i++) out[r * dim + i] = row[i] * factor * weight[i];
  });
  return out;
}

// x (heads, head_dim), rotated in place by cosines, then sines: (head_dim).
void rotate(float* x, const float* rotation, long heads, long head_dim) {
  const long half = head_dim / 2;
  for (long h = 0; h < heads; h++, x += head_dim)
    for (long i = 0; i < half; i++) {
      const float a = x[i], b = x[half + i];
      x[i] = a * rotation[i] - b * rotation[half + i];
      x[half + i] = a * rotation[half + i] + b * rotation[i];
    }
}

// state += x @ weight.T + bias
void add_linear(Buffer& state, const Matrix& m, const Buffer& x, const Step& step) {
  Input input(x, step);
  Buffer sums(step.rows() * m.out_dim);
  input.prepare(m);
  parallel(pieces(m), [&](long piece) {
    at_piece(m, piece, [&](long first, long last) {
      input.product(m, sums.data(), first, last);
    });
  });
  for (size_t i = 0; i < state.size(); i++) state[i] += sums[i];
}

// state += attention(norm(state)); keys and values (sequences, kv_heads, length, head_dim)
// are those of the new positions.
void add_attention(Buffer& state, const DecoderLayer& l, const Step& step,
                   const Cached* cached, float* keys, float* values) {
  const long rows = step.rows(), length = step.length, head_dim = l.head_dim;
  const long share = l.heads / l.kv_heads;
  const Buffer normed = rms_norm(state, l.attention_norm, rows, l.epsilon);
  Input input(normed, step);
  Buffer q(rows * l.q.out_dim), k(rows * l.k.out_dim), v(rows * l.v.out_dim);
  const Matrix* parts[] = {&l.q, &l.k, &l.v};
  float* outs[] = {q.data(), k.data(), v.data()};
  for (const Matrix* part : parts) input.prepare(*part);
  parallel(pieces(l.q) + pieces(l.k) + pieces(l.v), [&](long piece) {
    long i = 0;
    for (; piece >= pieces(*parts[i]); i++) piece -= pieces(*parts[i]);
    at_piece(*parts[i], piece, [&](long first, long last) {
      input.product(*parts[i], outs[i], first, last);
    });
  });

  for_rows(rows, [&](long r) {
    const float* rotation = step.rotation + r * head_dim;
    rotate(&q[r * l.q.out_dim], rotation, l.heads, head_dim);
    rotate(&k[r * l.k.out_dim], rotation, l.kv_heads, head_dim);
    for (long h = 0; h < l.kv_heads; h++) {
      const long from = r * l.k.out_dim + h * head_dim;
      const long to = ((r / length * l.kv_heads + h) * length + r % length) * head_dim;
      std::copy_n(&k[from], head_dim, keys + to);
      std::copy_n(&v[from], head_dim, values + to);
    }
  });

  Buffer mixed(q.size());
  const auto before = [&](long sequence, long h) {
    const Cached& c = cached[sequence];
    const long old = h * c.capacity * head_dim;
    return Positions{c.keys + old, c.values + old, c.length};
  };
  const auto own = [&](long sequence, long h, long count) {
    const long from = (sequence * l.kv_heads + h) * length * head_dim;
    return Positions{keys + from, values + from, count};
  };
  const long blocks = (length + QUERIES - 1) / QUERIES;
  if (length > FEW)
    parallel(step.sequences * l.heads * blocks, [&](long piece) {
      const long block = piece % blocks, h = piece / blocks % l.heads;
      const long sequence = piece / blocks / l.heads, first = block * QUERIES;
      const long count = std::min(QUERIES, length - first);
      const long from = (sequence * length + first) * l.q.out_dim + h * head_dim;
      attend_many(&q[from], l.q.out_dim, count, before(sequence, h / share),
                  own(sequence, h / share, first + count), &mixed[from], head_dim,
                  l.scale);
    });
  else
    parallel(rows * l.kv_heads, [&](long piece) {
      const long r = piece / l.kv_heads, h = piece % l.kv_heads;
      const long from = r * l.q.out_dim + h * share * head_dim;
      attend(&q[from], before(r / length, h), own(r / length, h, r % length + 1),
             &mixed[from], share, head_dim, l.scale);
    });
  add_linear(state, l.o, mixed, step);
}

// state += down(silu(gate(norm(state))) * up(norm(state)))
void add_mlp(Buffer& state, const DecoderLayer& l, const Step& step) {
  const long rows = step.rows();
  const Buffer normed = rms_norm(state, l.mlp_norm, rows, l.epsilon);
  Input input(normed, step);
  const long hidden = l.gate.out_dim;
  Buffer gate(rows * hidden), up(rows * hidden);
  input.prepare(l.gate);
  input.prepare(l.up);
  parallel(pieces(l.gate), [&](long piece) {
    at_piece(l.gate, piece, [&](long first, long last) {
      input.product(l.gate, gate.data(), first, last);
      input.product(l.up, up.data(), first, last);
      for (long r = 0; r < rows; r++)
        for (long i = r * hidden + first; i < r * hidden + last; i++)
          gate[i] = silu(gate[i]) * up[i];
    });
  });
  add_linear(state, l.down, gate, step);
}

}  // namespace

extern "C" {

// x (sequences * length, dim) -> out, alike, normed: `length` positions of each sequence.
// cached: (layers, sequences); keys and values (layers, sequences, kv_heads, length,
// head_dim): those of the new positions.
void fv_decoder(const DecoderLayer* layers, long count, const float* norm,
                const Cached* cached, const float* x, const float* rotation, float* out,
                float* keys, float* values, long sequences, long length) {
  const Step step{sequences, length, rotation};
  const long rows = step.rows(), dim = layers->q.dim;
  const long size = rows * layers->kv_heads * layers->head_dim;
  Buffer state(x, x + rows * dim);
  for (long i = 0; i < count; i++) {
    add_attention(state, layers[i], step, cached + i * sequences, keys + i * size,
                  values + i * size);
    add_mlp(state, layers[i], step);
  }
  state = rms_norm(state, norm, rows, layers->epsilon);
  std::copy(state.begin(), state.end(), out);
}
}
