"""All layers of the decoder for a few positions as one kernel: `decoder.cpp`.

It takes mlx-lm's Qwen2 and Llama where all weights are as stored
(`model/stored_layers.py`) and each sequence has a plain KV cache. The caches stay
mlx-lm's, and so does the rotary embedding: the kernel is given what that makes of (1, 0).
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from fastvlm_mlx.cpu import kernels

# Of more rows OpenBLAS' products are faster, and the processor's own in bfloat16.
ROWS, ROWS_BESIDE_BFLOAT16 = 64, 16


class StoredWeight(NamedTuple):
    """A linear layer's parameters as stored, `bits` 16 for bfloat16."""

    weight: mx.array
    scales: mx.array | None
    biases: mx.array | None
    bias: mx.array | None
    group_size: int
    bits: int


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scales", "biases", "bias")),
        *((name, ctypes.c_long) for name in ("dim", "out_dim", "group", "bits")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, ctypes.c_long) for name in ("heads", "kv_heads", "head_dim")),
        *((name, ctypes.c_float) for name in ("epsilon", "scale")),
    )


class _Cached(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_long) for name in ("capacity", "length")),
    )


def hidden(decoder: Any, x: mx.array, caches: Any) -> mx.array | None:
    """The last layer's states, normalized, or None where the kernel does not take it.

    Args:
        decoder: mlx-lm's Qwen2Model or LlamaModel.
        x: embeddings, (B, L, dim); returns alike.
        caches: mlx-lm's, one for each layer, of one sequence or of several
            (`model/rows_cache.py`). They take the new positions in.
    """
    B, L, _ = x.shape
    if caches is None or (weights := _weights(decoder)) is None:
        return None
    rows = ROWS_BESIDE_BFLOAT16 if kernels.bfloat16_form() else ROWS
    sequences = _sequences(caches)
    if B * L > rows or sequences is None or not kernels.at_hand(x):
        return None
    layers = _layers(decoder, weights)
    count, kv_heads, head_dim = len(layers), layers[0].kv_heads, layers[0].head_dim
    filled = (_Cached * (count * B))(*(_cached(c) for row in sequences for c in row))
    rotation = _rotation(decoder, caches[0].offset, B, L, head_dim)
    x = mx.contiguous(x)
    mx.eval(x, rotation)
    out = np.empty(x.shape, np.float32)
    keys = np.empty((count, B, kv_heads, L, head_dim), np.float32)
    values = np.empty_like(keys)
    pointers = [
        _address(x),
        _address(rotation),
        *(_data(a) for a in (out, keys, values)),
    ]
    library: Any = kernels.library()
    library.fv_decoder(
        layers,
        ctypes.c_long(count),
        ctypes.c_void_p(_address(decoder.norm.weight)),
        filled,
        *map(ctypes.c_void_p, pointers),
        *map(ctypes.c_long, (B, L)),
    )
    for cache, *new in zip(caches, keys, values, strict=True):
        cache.update_and_fetch(*map(mx.array, new))
    # Done beside what follows, so that the next step waits for nothing.
    mx.async_eval([cache.state[:2] for row in sequences for cache in row])
    return mx.array(out)


def _sequences(caches: Sequence[Any]) -> list[Sequence[Any]] | None:
    """For each layer the caches of all sequences, if all are mlx-lm's KVCache."""
    found = [c.caches if getattr(c, "rows_apart", False) else (c,) for c in caches]
    plain = all(type(cache).__name__ == "KVCache" for row in found for cache in row)
    return found if plain else None


def _weights(decoder: Any) -> list[list[StoredWeight]] | None:
    """For each layer the weights in the kernel's order, if all are as stored."""
    found = []
    for block in decoder.layers:
        attention, mlp = block.self_attn, block.mlp
        layers = [
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.o_proj,
        ]
        layers += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        # An adapter's layers are others.
        weights = [getattr(layer, "stored", lambda: None)() for layer in layers]
        if None in weights:
            return None
        found.append(weights)
    return found


def _layers(decoder: Any, weights: list[list[StoredWeight]]) -> ctypes.Array[_Layer]:
    found = []
    for block, parts in zip(decoder.layers, weights, strict=True):
        attention = block.self_attn
        norms = block.input_layernorm, block.post_attention_layernorm
        matrices = [_matrix(part) for part in parts]
        heads = attention.n_heads
        found.append(
            (
                *matrices,
                *(_address(norm.weight) for norm in norms),
                *(heads, attention.n_kv_heads, matrices[0].out_dim // heads),
                *(norms[0].eps, attention.scale),
            )
        )
    return (_Layer * len(found))(*found)


def _matrix(part: StoredWeight) -> _Matrix:
    arrays = [array if array is None else _address(array) for array in part[:4]]
    out_dim, words = part.weight.shape
    dim = words if part.bits == 16 else words * 32 // part.bits
    return _Matrix(*arrays, dim, out_dim, part.group_size, part.bits)


def _cached(cache: Any) -> tuple[int | None, int | None, int, int]:
    if cache.keys is None:
        return None, None, 0, 0
    # A view, where one step filled the whole cache.
    if not all(memoryview(cast(Any, a)).c_contiguous for a in cache.state[:2]):
        cache.keys, cache.values = map(mx.contiguous, cache.state[:2])
    keys, values = _address(cache.keys), _address(cache.values)
    return keys, values, cache.keys.shape[2], cache.offset


def _rotation(decoder: Any, offset: Any, B: int, L: int, head_dim: int) -> mx.array:
    """Cosines, then sines of the angles of each position, (B * L, head_dim): what the
    rotary embedding makes of (1, 0) in each plane."""
    unit = mx.concatenate([mx.ones(head_dim // 2), mx.zeros(head_dim // 2)])
    unit = mx.broadcast_to(unit, (B, 1, L, head_dim))
    return mx.contiguous(decoder.layers[0].self_attn.rope(unit, offset=offset))


def _address(array: mx.array) -> int:
    """Where the numbers lie; the array is evaluated, and must outlive its use."""
    return ctypes.addressof(ctypes.c_char.from_buffer(cast(Any, array)))


def _data(array: np.ndarray) -> int:
    return array.ctypes.data
