"""Writes Qwen2, the language model, as the stateful program that Apple's runner calls.

    inputs_embeds (1, n, hidden), position_ids (1, past + n) int32 -> logits (1, n, V)
    states k_cache, v_cache (layers, 1, key heads, context, head_dim), changed in place

The new keys and values go to the places past ... past + n - 1 of the caches. The
arithmetic is that of mlx-lm's qwen2.py; sums of squares are taken in float32, since a
residual stream of Qwen2 has values whose squares float16 cannot hold.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreai.functions import ANY, add_function
from fastvlm_mlx.convert.coreai.unpublished import int4_constant
from fastvlm_mlx.convert.weight_compression import BLOCK, quantize
from fastvlm_mlx.coreai_runtime import import_coreai
from fastvlm_mlx.model.text_config import TextConfig

EMBEDS, POSITIONS, LOGITS = "inputs_embeds", "position_ids", "logits"
KEYS, VALUES = "k_cache", "v_cache"

# Gives a weight by its name after `language_model.`, in float32.
Weight = Callable[[str], np.ndarray]

# Rows of a weight that are quantized at a time: the head has 150,000.
ROWS_AT_ONCE = 8192


def cache_shape(config: TextConfig, context: int) -> tuple[int, ...]:
    """The shape of the states."""
    heads = config.num_key_value_heads
    return (config.num_hidden_layers, 1, heads, context, config.head_dim)


class Decoder:
    """Emits the operations of one Qwen2.

    Args:
        config: of the language model.
        weight: called once for each weight.
        context: positions of the caches.
        precision: `float16` or `float32`, of arithmetic and states.
        bits: 4 or 8, of the weights of linear layers, in blocks of 32 inputs; None
            stores them in `precision`.
    """

    def __init__(
        self,
        config: TextConfig,
        weight: Weight,
        context: int,
        precision: str,
        bits: int | None,
    ):
        self.ops: Any = import_coreai()
        self.config = config
        self.weight = weight
        self.context = context
        self.dtype = np.dtype(precision)
        self.bits = bits

    def program(self) -> Any:
        """The Core AI program, of one function `main`."""
        config, dtype = self.config, self.dtype.type
        cache = (cache_shape(config, self.context), dtype)
        vocabulary = self._rows(self._head_name())

        def main(
            inputs_embeds: Any, position_ids: Any, k_cache: Any, v_cache: Any
        ) -> Any:
            return self._main(inputs_embeds, position_ids, k_cache, v_cache)

        module = self.ops.Module.create()
        with module:
            add_function(
                main,
                "main",
                {
                    EMBEDS: ((1, ANY, config.hidden_size), dtype),
                    POSITIONS: ((1, ANY), np.int32),
                },
                (LOGITS, ((1, ANY, vocabulary), dtype)),
                {KEYS: cache, VALUES: cache},
            )
        return self.ops.AIProgram(module)

    def _rows(self, name: str) -> int:
        return self.weight(name).shape[0]

    def _head_name(self) -> str:
        tied = self.config.tie_word_embeddings
        return "model.embed_tokens.weight" if tied else "lm_head.weight"

    def _main(self, x: Any, positions: Any, keys: Any, values: Any) -> Any:
        ops = self.ops
        self._end = self._length(positions)
        self._start = ops.broadcasting_sub(self._end, self._length(x))
        # [past + n, 1], and of the new tokens [n, 1]
        known = ops.reshape(positions, _ints(-1, 1))
        new = ops.slice_(
            known, self._vector(self._start, 0), self._vector(self._end, 1), _ints(1, 1)
        )
        new = ops.reshape(new, _ints(-1, 1))
        # [n, past + n]: a token sees itself and what came before
        self._hidden = ops.broadcasting_greater(ops.transpose(known, _axes(1, 0)), new)
        self._cosines, self._sines = self._rotations(new)
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}"
            y = self._norm(x, f"{name}.input_layernorm.weight")
            y, keys, values = self._attention(y, keys, values, layer, name)
            x = ops.broadcasting_add(x, y)
            y = self._norm(x, f"{name}.post_attention_layernorm.weight")
            x = ops.broadcasting_add(x, self._mlp(y, f"{name}.mlp"))
        x = self._norm(x, "model.norm.weight")
        return self._linear(x, self.weight(self._head_name())), keys, values

    def _attention(
        self, x: Any, keys: Any, values: Any, layer: int, name: str
    ) -> tuple[Any, Any, Any]:
        ops, config = self.ops, self.config
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        group, dim = heads // key_heads, config.head_dim
        # The logits' scale is folded into the queries, before float16 can overflow.
        q = self._projection(x, f"{name}.self_attn.q_proj", dim**-0.5)
        k = self._projection(x, f"{name}.self_attn.k_proj")
        v = self._projection(x, f"{name}.self_attn.v_proj")
        q = self._rotate(ops.reshape(q, _ints(-1, heads, dim)))
        k = self._rotate(ops.reshape(k, _ints(-1, key_heads, dim)))
        v = ops.reshape(v, _ints(-1, key_heads, dim))
        keys, k = self._append(keys, k, layer)
        values, v = self._append(values, v, layer)
        # [key heads, group, n, dim]
        q = ops.reshape(q, _ints(-1, key_heads, group, dim))
        q = ops.transpose(q, _axes(1, 2, 0, 3))
        matmul = ops.broadcasting_batch_matmul
        logits = matmul(q, ops.transpose(k, _axes(0, 1, 3, 2)))
        least = self.dtype.type(np.finfo(self.dtype).min)
        logits = ops.broadcasting_where(self._hidden, least, logits)
        mixed = matmul(ops.softmax(logits, np.int32(3)), v)
        # [1, n, heads * dim]
        mixed = ops.transpose(mixed, _axes(2, 0, 1, 3))
        mixed = ops.reshape(mixed, _ints(1, -1, heads * dim))
        output = self.weight(f"{name}.self_attn.o_proj.weight")
        return self._linear(mixed, output), keys, values

    def _append(self, cache: Any, new: Any, layer: int) -> tuple[Any, Any]:
        """The cache with `new` (n, key heads, dim), and a layer's rows up to here,
        (key heads, 1, past + n, dim)."""
        ops, config = self.ops, self.config
        heads, dim = config.num_key_value_heads, config.head_dim
        # [1, 1, key heads, n, dim]
        new = ops.expand_dims(ops.transpose(new, _axes(1, 0, 2)), _ints(0, 1))
        ones = _ints(1, 1, 1, 1, 1)
        start = self._vector(_ints(layer, 0, 0), self._start, 0)
        end = self._vector(_ints(layer + 1, 1, heads), self._end, dim)
        cache = ops.slice_update(cache, start, end, ones, new)
        rows = ops.slice_(cache, _ints(layer, 0, 0, 0, 0), end, ones)
        return cache, ops.reshape(rows, _ints(heads, 1, -1, dim))

    def _rotations(self, positions: Any) -> tuple[Any, Any]:
        """cos and sin of RoPE's angles, (n, 1, dim), by the positions (n, 1)."""
        half = self.config.head_dim // 2
        frequencies = self.config.rope_theta ** -(np.arange(half) / half)
        angles = np.arange(self.context)[:, None] * frequencies
        found = []
        for table in (np.cos(angles), np.sin(angles)):
            both = np.concatenate([table, table], axis=1).astype(self.dtype)
            rows = self.ops.gather_nd(both, positions)
            found.append(self.ops.expand_dims(rows, _ints(1)))
        return found[0], found[1]

    def _rotate(self, x: Any) -> Any:
        """RoPE of (n, heads, dim): halves of a head are turned, not neighbours."""
        ops = self.ops
        half = self.config.head_dim // 2
        first, second = ops.split(x, _axes(half, half), np.int32(2))
        minus = ops.broadcasting_mul(second, self.dtype.type(-1))
        turned = ops.concat(np.int32(2), [minus, first])
        return ops.broadcasting_add(
            ops.broadcasting_mul(x, self._cosines),
            ops.broadcasting_mul(turned, self._sines),
        )

    def _mlp(self, x: Any, name: str) -> Any:
        gate = self._linear(x, self.weight(f"{name}.gate_proj.weight"))
        up = self._linear(x, self.weight(f"{name}.up_proj.weight"))
        both = self.ops.broadcasting_mul(self.ops.silu(gate), up)
        return self._linear(both, self.weight(f"{name}.down_proj.weight"))

    def _norm(self, x: Any, name: str) -> Any:
        ops, half = self.ops, self.dtype != np.float32
        wide = ops.cast(x, np.float32) if half else x
        mean = ops.reduce_mean(ops.broadcasting_mul(wide, wide), _ints(2))
        eps = np.float32(self.config.rms_norm_eps)
        scale = ops.rsqrt(ops.broadcasting_add(mean, eps))
        wide = ops.broadcasting_mul(wide, scale)
        x = ops.cast(wide, self.dtype.type) if half else wide
        return ops.broadcasting_mul(x, self.weight(name).astype(self.dtype))

    def _projection(self, x: Any, name: str, scale: float = 1.0) -> Any:
        y = self._linear(x, self.weight(f"{name}.weight") * np.float32(scale))
        bias = self.weight(f"{name}.bias") * np.float32(scale)
        return self.ops.broadcasting_add(y, bias.astype(self.dtype))

    def _linear(self, x: Any, weight: np.ndarray) -> Any:
        """`weight`: (out, in)."""
        matrix = weight.astype(self.dtype)
        if self.bits is None or not _fits(weight):
            stored: Any = np.ascontiguousarray(matrix.T)
        else:
            stored = self._quantized(matrix, self.bits)
        return self.ops.broadcasting_batch_matmul(x, stored)

    def _quantized(self, matrix: np.ndarray, bits: int) -> Any:
        """(out, in) as (in, out) in few bits, a scale for each 32 inputs."""
        data, scale = (np.ascontiguousarray(each.T) for each in _parts(matrix, bits))
        stored = int4_constant if bits == 4 else np.ascontiguousarray
        zeros = np.zeros(scale.shape, np.int8)
        return self.ops.blockwise_shift_scale(
            stored(data),
            scale.astype(self.dtype),
            stored(zeros),
            np.zeros(scale.shape, self.dtype),
        )

    def _length(self, x: Any) -> Any:
        """The second dimension as a vector of one int32."""
        shape = self.ops.get_shape(x)
        one = self.ops.slice_(shape, _ints(1), _ints(2), _ints(1))
        return self.ops.cast(one, np.int32)

    def _vector(self, *parts: Any) -> Any:
        """Numbers, vectors and values of one dimension, in one vector."""
        known = [_ints(each) if isinstance(each, int) else each for each in parts]
        return self.ops.concat(np.int32(0), known)


def is_quantized(config: TextConfig, name: str, array: np.ndarray) -> bool:
    """Whether `Decoder` stores this weight in `bits`, where bits are given.

    `model.embed_tokens.weight` here is the tied head.
    """
    tied = config.tie_word_embeddings and name == "model.embed_tokens.weight"
    linear = name.endswith("_proj.weight") or name == "lm_head.weight"
    return (tied or linear) and _fits(array)


def rounded(matrix: np.ndarray, bits: int) -> np.ndarray:
    """What the weights (out, in) are once they are stored in `bits`, in float32."""
    data, scale = _parts(matrix.astype(np.float16), bits)
    return data * np.repeat(scale, BLOCK, axis=1)


def _fits(matrix: np.ndarray) -> bool:
    return matrix.shape[1] % BLOCK == 0


def _parts(matrix: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 (out, in) and scales (out, in / 32) in float32."""
    parts = [
        quantize(matrix[row : row + ROWS_AT_ONCE, :, None, None], BLOCK, bits)
        for row in range(0, len(matrix), ROWS_AT_ONCE)
    ]
    data = np.concatenate([part[0] for part in parts])
    scale = np.concatenate([part[1] for part in parts])
    return data[:, :, 0, 0], scale[:, :, 0, 0]


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def _axes(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)
