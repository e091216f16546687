"""All layers of the decoder for a few positions as one kernel: `decoder.cpp`.

It takes mlx-lm's Qwen2 and Llama where all weights are as stored
(`model/stored_layers.py`) and each sequence has a plain KV cache. mlx-lm's caches take
the new keys and values in, and its rotary embedding says by which angles to turn.
"""

import ctypes
from collections.abc import Iterator, Sequence
from operator import is_
from typing import Any, cast

import mlx.core as mx
import numpy as np

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.cpu.stored_weights import Matrix, address

# Positions at once, as FEW in few_rows.h: of more OpenBLAS' products are faster.
# In bfloat16 any number.
ROWS = 64
HEAD_DIM = 32  # heads are of a multiple


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
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
    if caches is None or device.on_gpu() or (layers := _layers(decoder)) is None:
        return None
    sequences = _sequences(caches)
    if sequences is None or not kernels.at_hand(x):
        return None
    if B * L > ROWS and not kernels.bfloat16_form():
        return None
    count, kv_heads, head_dim = len(layers), layers[0].kv_heads, layers[0].head_dim
    filled = (_Cached * (count * B))(*(_cached(c) for row in sequences for c in row))
    rotation = _rotation(decoder, caches[0].offset, B, L, head_dim)
    x = mx.contiguous(x)
    mx.eval(x, rotation)
    out = np.empty(x.shape, np.float32)
    keys = np.empty((count, B, kv_heads, L, head_dim), np.float32)
    values = np.empty_like(keys)
    outputs = [array.ctypes.data for array in (out, keys, values)]
    library: Any = kernels.library()
    library.fv_decoder(
        layers,
        ctypes.c_long(count),
        ctypes.c_void_p(address(decoder.norm.weight)),
        filled,
        *map(ctypes.c_void_p, (address(x), address(rotation), *outputs)),
        *map(ctypes.c_long, (B, L)),
    )
    for cache, *new in zip(caches, keys, values, strict=True):
        cache.update_and_fetch(*map(mx.array, new))
    # Done beside what follows, so that the next step waits for nothing.
    mx.async_eval([cache.state[:2] for row in sequences for cache in row])
    return mx.array(out)


def _sequences(caches: Sequence[Any]) -> list[Sequence[Any]] | None:
    """For each layer the caches of all sequences, if all are mlx-lm's KVCache."""
    found: list[Sequence[Any]] = [
        each.caches if getattr(each, "rows_apart", False) else (each,)
        for each in caches
    ]
    plain = all(type(cache).__name__ == "KVCache" for row in found for cache in row)
    return found if plain else None


class _Prepared:
    """A decoder's layers for the kernel, and the parameters that they point to."""

    def __init__(self, parts: Sequence[Any] = (), layers: Any = None):
        self.parts, self.layers = parts, layers

    def __reduce__(self) -> tuple[type["_Prepared"], tuple[()]]:
        # A copy of the model has arrays of its own.
        return _Prepared, ()


def _layers(decoder: Any) -> ctypes.Array[_Layer] | None:
    """The layers as the kernel takes them, or None if not all weights are as stored."""
    known = getattr(decoder, "_prepared", None) or _Prepared()
    parts = list(_parts(decoder))
    # An adapter may have changed them.
    if len(parts) != len(known.parts) or not all(map(is_, parts, known.parts)):
        layers = [_layer(block) for block in decoder.layers]
        fits = None not in layers
        found = (_Layer * len(layers))(*layers) if fits else None
        known = decoder._prepared = _Prepared(parts, found)
    return known.layers


_ATTENTION = tuple(f"{name}_proj" for name in "qkvo")
_MLP = tuple(f"{name}_proj" for name in ("gate", "up", "down"))
_NORMS = ("input_layernorm", "post_attention_layernorm")


def _parts(decoder: Any) -> Iterator[Any]:
    """All that `_layers` depends on. A module is a dict: its attributes are slower."""
    for block in decoder["layers"]:
        for layer in _linear_layers(block):
            yield type(layer)
            yield from layer.values()
        for name in _NORMS:
            yield block[name]["weight"]


def _linear_layers(block: Any) -> list[Any]:
    """In the kernel's order."""
    attention, mlp = block["self_attn"], block["mlp"]
    return [attention[name] for name in _ATTENTION] + [mlp[name] for name in _MLP]


def _layer(block: Any) -> tuple[Any, ...] | None:
    """The fields of a `_Layer`, or None where the kernel does not take the block."""
    attention = block.self_attn
    norms = [block[name] for name in _NORMS]
    try:
        # An adapter's layers have no `stored`.
        matrices = [layer.stored() for layer in _linear_layers(block)]
        weights = [address(norm.weight) for norm in norms]
    except (AttributeError, TypeError):
        return None
    heads, kv_heads = attention.n_heads, attention.n_kv_heads
    if None in matrices or getattr(attention.rope, "traditional", False):
        return None
    if (head_dim := matrices[0].out_dim // heads) % HEAD_DIM:
        return None
    sizes = (heads, kv_heads, head_dim)
    return *matrices, *weights, *sizes, norms[0].eps, attention.scale


def _cached(cache: Any) -> tuple[int | None, int | None, int, int]:
    if cache.keys is None:
        return None, None, 0, 0
    # A view, where one step filled the whole cache.
    if not all(memoryview(cast(Any, a)).c_contiguous for a in cache.state[:2]):
        cache.keys, cache.values = map(mx.contiguous, cache.state[:2])
    keys, values = address(cache.keys), address(cache.values)
    return keys, values, cache.keys.shape[2], cache.offset


def _rotation(decoder: Any, offset: Any, B: int, L: int, head_dim: int) -> mx.array:
    """Cosines, then sines of the angles of each position, (B * L, head_dim): what the
    rotary embedding makes of (1, 0) in each plane."""
    unit = mx.concatenate([mx.ones(head_dim // 2), mx.zeros(head_dim // 2)])
    unit = mx.broadcast_to(unit, (B, 1, L, head_dim))
    return mx.contiguous(decoder.layers[0].self_attn.rope(unit, offset=offset))
