"""One encoder: train-time tensors in, the inference form and its sizes out.

Walks the stages under timm's names in PyTorch's layout, applies the folds of
`reparam` to whatever branches each part still has (folded parts pass through), and
writes the names and the NHWC layout of `fastvlm_mlx/model/vision.py`. Depths and widths
are then read off what was written.
"""

import mlx.core as mx

from fastvlm_mlx.convert.fold import reparam
from fastvlm_mlx.convert.fold.reparam import Conv
from fastvlm_mlx.convert.fold.tensor_tree import TensorReader, TensorWriter
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.weights.weight_files import Tensors


def fold_encoder(
    tensors: Tensors, multi_scale: str | None = None, stages: tuple[int, ...] = ()
) -> tuple[Tensors, VisionConfig]:
    """Folds the `vision_tower.*` tensors of one encoder and reads its sizes.

    Args:
        tensors: timm's names, PyTorch's layout (out, in / groups, kH, kW).
        multi_scale: the config's feature aggregation; AvgPool leaves no tensors of it.
        stages: the stages it pools.
    Raises:
        CheckpointError: a part is missing, or a tensor has no place.
    """
    encoder, sink = (
        TensorReader(tensors, "vision_tower."),
        TensorWriter({}, "vision_tower."),
    )
    _fold_stem(encoder / "stem", sink / "stem")
    for index in (encoder / "stages").indices():
        _fold_stage(encoder / "stages" / index, sink / "stages" / index)
    final = encoder / "final_conv"
    sink.put_depthwise("final_conv.depthwise", _mobile_one(final))
    _fold_squeeze_excite(final / "se", sink / "final_conv" / "se")
    if multi_scale == "dwconv":
        for index in stages:
            pool = encoder / "multi_scale" / index
            _fold_pool(pool, sink / "multi_scale", f"stage{index}")

    if unknown := sorted(set(tensors) - encoder.taken):
        raise CheckpointError(
            f"tensor {unknown[0]} has no place in a FastViT encoder"
            f" ({len(unknown)} such); the checkpoint is of another network"
        )
    # A LayerNorm must still be computed; a BatchNorm went into qkv for good.
    layer_norm = not any(name.endswith(".norm.running_var") for name in tensors)
    return sink.tensors, read_config(
        sink.tensors,
        layer_norm=layer_norm,
        multi_scale=multi_scale,
        multi_scale_stages=tuple(stages),
    )


def read_config(folded: Tensors, **settings) -> VisionConfig:
    """The sizes of an encoder from its folded tensors; `settings` are the fields that
    leave no trace in them."""
    encoder = TensorReader(folded, "vision_tower.")
    stages = [encoder / "stages" / i for i in (encoder / "stages").indices()]
    sizes: dict[str, list] = {
        name: []
        for name in (
            "depths",
            "embed_dims",
            "mlp_dims",
            "token_mixers",
            "pos_emb_kernels",
            "downsample_se_dims",
        )
    }
    kernels: dict[str, int] = {}
    for stage in stages:
        depth = len((stage / "blocks").indices())
        block = stage / "blocks" / 0
        hidden, width = (block / "mlp.fc1").weight(2).shape
        attention = "qkv" in block / "token_mixer"
        sizes["depths"].append(depth)
        sizes["embed_dims"].append(width)
        sizes["mlp_dims"].append(hidden)
        sizes["token_mixers"].append("attention" if attention else "repmixer")
        sizes["pos_emb_kernels"].append(_size(stage, "pos_emb.weight", axis=1))
        sizes["downsample_se_dims"].append(_size(stage, "downsample.se.fc1.weight"))
        kernels["ffn_kernel"] = _size(block, "mlp.conv.weight", axis=1)
        if not attention:
            kernels["repmixer_kernel"] = _size(block, "token_mixer.weight", axis=1)
        if "downsample" in stage:
            large = _size(stage, "downsample.depthwise.weight", axis=1)
            kernels["downsample_kernel"] = large
    return VisionConfig(
        **{name: tuple(values) for name, values in sizes.items()},
        **kernels,
        out_dim=_size(encoder, "final_conv.depthwise.weight"),
        out_se_dim=_size(encoder, "final_conv.se.fc1.weight"),
        **settings,
    )


def _size(part: TensorReader, name: str, axis: int = 0) -> int:
    """The length of one axis of a tensor; 0 where there is no such tensor."""
    tensor = part.take_if_present(name)
    return 0 if tensor is None else tensor.shape[axis]


def _fold_stem(stem: TensorReader, sink: TensorWriter) -> None:
    sink.put_depthwise("conv", _mobile_one(stem / 0))
    sink.put_depthwise("depthwise", _mobile_one(stem / 1))
    sink.put_pointwise("pointwise", _mobile_one(stem / 2))


def _fold_stage(stage: TensorReader, sink: TensorWriter) -> None:
    if "downsample" in stage:
        large, pointwise = (stage / "downsample" / "proj" / i for i in (0, 1))
        sink.put_depthwise("downsample.depthwise", _large_kernel(large))
        if "se" in large:
            _fold_squeeze_excite(large / "se", sink / "downsample" / "se")
        sink.put_pointwise("downsample.pointwise", _mobile_one(pointwise))
    if "pos_emb" in stage:
        sink.put_depthwise("pos_emb", _position_encoding(stage / "pos_emb"))
    for index in (stage / "blocks").indices():
        _fold_block(stage / "blocks" / index, sink / "blocks" / index)


def _fold_block(block: TensorReader, sink: TensorWriter) -> None:
    mlp = block / "mlp"
    if "qkv" in block / "token_mixer":
        _fold_attention(block, sink / "token_mixer")
        layer_scale = block / "layer_scale_2"
    else:
        sink.put_depthwise("token_mixer", _rep_mixer(block / "token_mixer"))
        layer_scale = block / "layer_scale"
    sink.put_depthwise("mlp.conv", _conv_norm(mlp / "conv"))
    sink.put_pointwise("mlp.fc1", (mlp / "fc1").conv())
    sink.put_pointwise("mlp.fc2", _scaled((mlp / "fc2").conv(), layer_scale))


def _fold_attention(block: TensorReader, sink: TensorWriter) -> None:
    """The norm's affine goes into qkv, the layer scale into proj."""
    mixer, norm = block / "token_mixer", block / "norm"
    weight, bias = (mixer / "qkv").linear()
    width = weight.shape[1]
    if weight.shape[0] != 3 * width:
        raise CheckpointError(
            f"tensor {mixer.prefix}qkv.weight has shape {weight.shape}, not three"
            " times its width; the checkpoint is of another network"
        )
    if "running_var" in norm:
        scale, shift = norm.batch_norm(width).affine()
    else:
        scale, shift = norm.vector("weight", width), norm.vector("bias", width)
    sink.put("qkv", reparam.fold_input_affine(weight, bias, scale, shift))
    proj, shift = (mixer / "proj").linear()
    if shift is None:
        shift = mx.zeros(proj.shape[0])
    sink.put("proj", _scaled(Conv(proj, shift), block / "layer_scale_1"))


def _fold_squeeze_excite(part: TensorReader, sink: TensorWriter) -> None:
    for layer in ("fc1", "fc2"):
        sink.put_pointwise(layer, (part / layer).conv())


def _fold_pool(part: TensorReader, sink: TensorWriter, name: str) -> None:
    """A depthwise convolution whose windows tile the map, as (k, k, C) weights."""
    conv = _conv_norm(part)
    if conv.weight.shape[1] != 1:
        raise CheckpointError(
            f"tensor {part.prefix}conv.weight has shape {conv.weight.shape}, which is"
            " no depthwise convolution's; the checkpoint is of another network"
        )
    sink.put(name, Conv(conv.weight[:, 0].transpose(1, 2, 0), conv.bias))


def _mobile_one(part: TensorReader, shape: tuple[int, ...] | None = None) -> Conv:
    """MobileOne: k x k branches, a 1x1 branch and a BatchNorm skip, summed.

    `shape` is the kernel's where the skip is the only branch (RepMixer's norm).
    """
    if "reparam_conv" in part:
        return (part / "reparam_conv").conv()
    kxk = part / "conv_kxk"
    branches = [_conv_norm(kxk / index) for index in kxk.indices()]
    if "conv_scale" in part:
        branches.append(_conv_norm(part / "conv_scale"))
    if branches:
        shape = tuple(_sum(part, branches).weight.shape)
    if "identity" in part and shape is not None:
        norm = (part / "identity").batch_norm(shape[0])
        branches.append(reparam.fold_skip(norm, shape))
    if not branches:
        raise CheckpointError(
            f"{part.prefix}* has no convolution; the checkpoint is incomplete"
        )
    return _sum(part, branches)


def _sum(part: TensorReader, branches: list[Conv]) -> Conv:
    shapes = {branch.weight.shape[:2] for branch in branches}
    if len(shapes) > 1:
        raise CheckpointError(
            f"{part.prefix}* has branches of shapes {sorted(shapes)}; the checkpoint's"
            " tensors do not belong together"
        )
    return reparam.add_branches(*branches)


def _rep_mixer(part: TensorReader) -> Conv:
    if "reparam_conv" in part:
        return (part / "reparam_conv").conv()
    mixer = _mobile_one(part / "mixer")
    norm = _mobile_one(part / "norm", tuple(mixer.weight.shape))
    _sum(part, [mixer, norm])
    gamma = _gamma(part / "layer_scale", mixer)
    return reparam.fold_rep_mixer(mixer, norm, gamma)


def _large_kernel(part: TensorReader) -> Conv:
    if "reparam_conv" in part:
        return (part / "reparam_conv").conv()
    branches = [_conv_norm(part / "large_conv")]
    if "small_conv" in part:
        branches.append(_conv_norm(part / "small_conv"))
    return _sum(part, branches)


def _position_encoding(part: TensorReader) -> Conv:
    if "reparam_conv" in part:
        return (part / "reparam_conv").conv()
    return reparam.fold_residual(*(part / "pos_enc").conv())


def _conv_norm(part: TensorReader) -> Conv:
    """A convolution, with the BatchNorm behind it where there is one."""
    if "conv" not in part:
        return part.conv()
    conv = part / "conv"
    weight = conv.weight(4)
    bias = None
    if "bias" in conv:
        bias = conv.vector("bias", weight.shape[0])
    norm = (part / "bn").batch_norm(weight.shape[0])
    return reparam.fold_batch_norm(weight, norm, bias)


def _scaled(layer: Conv, scale: TensorReader) -> Conv:
    gamma = _gamma(scale, layer)
    return layer if gamma is None else reparam.fold_layer_scale(*layer, gamma)


def _gamma(scale: TensorReader, layer: Conv) -> mx.array | None:
    """A layer scale, which training may have left out."""
    return scale.vector("gamma", layer.weight.shape[0]) if "gamma" in scale else None
