"""Emits self-attention on channels-first maps, batched or per head.

Both forms are Apple's and compute the same. Batched suits the CPU and the GPU; per head
keeps the intermediates of the Neural Engine small (ml-ane-transformers' principle 2,
ml-stable-diffusion's SPLIT_EINSUM, and with query chunks SPLIT_EINSUM_V2).
"""

from typing import Any

from fastvlm_mlx.convert.coreml.options import CoreMLOptions


def attend(mb: Any, qkv: Any, head_dim: int, options: CoreMLOptions) -> Any:
    """Self-attention of every position to every other.

    Args:
        mb: coremltools' MIL builder.
        qkv: (1, 3 * C, H, W): queries, keys, values, each head's channels together.
            The queries are scaled already.
        head_dim: channels of one head.
    Returns:
        a MIL value, (1, C, H, W).
    """
    if options.attention == "per-head":
        return _per_head(mb, qkv, head_dim, options.query_chunk)
    return _batched(mb, qkv, head_dim)


def _batched(mb: Any, qkv: Any, head_dim: int) -> Any:
    _, dims, height, width = qkv.shape
    dim, tokens = dims // 3, height * width
    # With a batch of one a reshape separates the heads: no transpose is needed.
    # [3, heads, head_dim, N]
    split = mb.reshape(x=qkv, shape=(3, dim // head_dim, head_dim, tokens))
    q, k, v = mb.split(x=split, num_splits=3, axis=0)
    # [1, heads, N queries, N keys]
    weights = mb.softmax(x=mb.matmul(x=q, y=k, transpose_x=True), axis=-1)
    # [1, heads, head_dim, N]
    x = mb.matmul(x=v, y=weights, transpose_y=True)
    return mb.reshape(x=x, shape=(1, dim, height, width))


def _per_head(mb: Any, qkv: Any, head_dim: int, chunk: int | None) -> Any:
    _, dims, height, width = qkv.shape
    dim, tokens = dims // 3, height * width
    heads = dim // head_dim
    # [1, C, 1, N]
    flat = mb.reshape(x=qkv, shape=(1, dims, 1, tokens))
    q, k, v = mb.split(x=flat, num_splits=3, axis=1)
    keys = _split(mb, mb.transpose(x=k, perm=(0, 3, 2, 1)), heads, 3)
    out = []
    for q_head, k_head, v_head in zip(
        _split(mb, q, heads, 1), keys, _split(mb, v, heads, 1), strict=True
    ):
        parts = [
            _one_head(mb, part, k_head, v_head)
            for part in _chunks(mb, q_head, tokens, chunk)
        ]
        out.append(mb.concat(values=parts, axis=3) if len(parts) > 1 else parts[0])
    x = mb.concat(values=out, axis=1) if heads > 1 else out[0]
    return mb.reshape(x=x, shape=(1, dim, height, width))


def _one_head(mb: Any, q: Any, k: Any, v: Any) -> Any:
    # coremltools' einsum supports two equations only; this one is bkhc,bchq->bkhq.
    equation = "nchw,nwhu->nchu"
    # [1, N keys, 1, queries]
    weights = mb.softmax(x=mb.einsum(values=(k, q), equation=equation), axis=1)
    return mb.einsum(values=(v, weights), equation=equation)


def _chunks(mb: Any, q: Any, tokens: int, chunk: int | None) -> list[Any]:
    if chunk is None or chunk >= tokens:
        return [q]
    sizes = [min(chunk, tokens - start) for start in range(0, tokens, chunk)]
    return list(mb.split(x=q, split_sizes=sizes, axis=3))


def _split(mb: Any, x: Any, parts: int, axis: int) -> list[Any]:
    return list(mb.split(x=x, num_splits=parts, axis=axis)) if parts > 1 else [x]
