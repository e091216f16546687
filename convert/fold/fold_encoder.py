"""Folds the train-time tensors of one encoder into its inference form.

Walks the stages under timm's names in PyTorch's layout, applies the folds of `reparam`
to the branches that each layer still has (folded layers pass through), and writes the
names and the NHWC layout of `fastvlm_mlx/model/vision.py`. `VisionConfig` is then read
from the shapes of the folded tensors.
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
        multi_scale: `avgpool`, `dwconv` or None; `avgpool` has no tensors, so only the
            config can tell.
        stages: the indices of the stages that are pooled.
    Returns:
        the folded tensors in the names of `model/vision.py`, and their config.
    Raises:
        CheckpointError: a tensor is missing, or one does not belong to the encoder.
    """
    encoder = TensorReader(tensors, "vision_tower.")
    writer = TensorWriter({}, "vision_tower.")
    _fold_stem(encoder.child("stem"), writer.child("stem"))
    for index in encoder.child("stages").indices():
        _fold_stage(encoder.child("stages", index), writer.child("stages", index))
    final = encoder.child("final_conv")
    writer.write_depthwise("final_conv.depthwise", fold_mobile_one(final))
    _fold_squeeze_excite(final.child("se"), writer.child("final_conv", "se"))
    if multi_scale == "dwconv":
        for index in stages:
            pool = encoder.child("multi_scale", index)
            _fold_pool(pool, writer.child("multi_scale"), f"stage{index}")

    if unknown := encoder.unread_names():
        raise CheckpointError(
            f"tensor {unknown[0]} has no place in a FastViT encoder"
            f" ({len(unknown)} such); the checkpoint is of another network"
        )
    # A BatchNorm is folded into qkv; a LayerNorm is still computed at inference.
    layer_norm = not any(name.endswith(".norm.running_var") for name in tensors)
    return writer.tensors, read_vision_config(
        writer.tensors,
        layer_norm=layer_norm,
        multi_scale=multi_scale,
        multi_scale_stages=tuple(stages),
    )


def read_vision_config(
    folded: Tensors,
    *,
    layer_norm: bool = True,
    multi_scale: str | None = None,
    multi_scale_stages: tuple[int, ...] = (),
) -> VisionConfig:
    """The config of an encoder, with the sizes read from its folded tensors.

    The keyword arguments are the fields of `VisionConfig` that no shape tells.
    """
    encoder = TensorReader(folded, "vision_tower.")
    stages = [encoder.child("stages", i) for i in encoder.child("stages").indices()]
    depths, embed_dims, mlp_dims = [], [], []
    token_mixers, pos_emb_kernels, downsample_se_dims = [], [], []
    # A kernel size that no stage tells keeps VisionConfig's default.
    kernels: dict[str, int] = {}
    for stage in stages:
        block = stage.child("blocks", 0)
        hidden, width = block.child("mlp.fc1").weight(2).shape
        attention = "qkv" in block.child("token_mixer")
        depths.append(len(stage.child("blocks").indices()))
        embed_dims.append(width)
        mlp_dims.append(hidden)
        token_mixers.append("attention" if attention else "repmixer")
        pos_emb_kernels.append(_size(stage, "pos_emb.weight", axis=1))
        downsample_se_dims.append(_size(stage, "downsample.se.fc1.weight"))
        kernels["ffn_kernel"] = _size(block, "mlp.conv.weight", axis=1)
        if not attention:
            kernels["repmixer_kernel"] = _size(block, "token_mixer.weight", axis=1)
        if "downsample" in stage:
            large = _size(stage, "downsample.depthwise.weight", axis=1)
            kernels["downsample_kernel"] = large
    return VisionConfig(
        depths=tuple(depths),
        embed_dims=tuple(embed_dims),
        mlp_dims=tuple(mlp_dims),
        token_mixers=tuple(token_mixers),
        pos_emb_kernels=tuple(pos_emb_kernels),
        downsample_se_dims=tuple(downsample_se_dims),
        **kernels,
        out_dim=_size(encoder, "final_conv.depthwise.weight"),
        out_se_dim=_size(encoder, "final_conv.se.fc1.weight"),
        layer_norm=layer_norm,
        multi_scale=multi_scale,
        multi_scale_stages=multi_scale_stages,
    )


def _size(reader: TensorReader, name: str, axis: int = 0) -> int:
    """The length of one axis of a tensor; 0 where there is no such tensor."""
    tensor = reader.read_optional(name)
    return 0 if tensor is None else tensor.shape[axis]


def _fold_stem(stem: TensorReader, writer: TensorWriter) -> None:
    writer.write_depthwise("conv", fold_mobile_one(stem.child(0)))
    writer.write_depthwise("depthwise", fold_mobile_one(stem.child(1)))
    writer.write_pointwise("pointwise", fold_mobile_one(stem.child(2)))


def _fold_stage(stage: TensorReader, writer: TensorWriter) -> None:
    if "downsample" in stage:
        large, pointwise = (stage.child("downsample", "proj", i) for i in (0, 1))
        writer.write_depthwise("downsample.depthwise", fold_large_kernel(large))
        if "se" in large:
            _fold_squeeze_excite(large.child("se"), writer.child("downsample", "se"))
        writer.write_pointwise("downsample.pointwise", fold_mobile_one(pointwise))
    if "pos_emb" in stage:
        writer.write_depthwise(
            "pos_emb", fold_position_encoding(stage.child("pos_emb"))
        )
    for index in stage.child("blocks").indices():
        _fold_block(stage.child("blocks", index), writer.child("blocks", index))


def _fold_block(block: TensorReader, writer: TensorWriter) -> None:
    mlp = block.child("mlp")
    if "qkv" in block.child("token_mixer"):
        _fold_attention(block, writer.child("token_mixer"))
        layer_scale = block.child("layer_scale_2")
    else:
        writer.write_depthwise(
            "token_mixer", fold_token_mixer(block.child("token_mixer"))
        )
        layer_scale = block.child("layer_scale")
    writer.write_depthwise("mlp.conv", _conv_norm(mlp.child("conv")))
    writer.write_pointwise("mlp.fc1", mlp.child("fc1").conv())
    writer.write_pointwise("mlp.fc2", _scaled(mlp.child("fc2").conv(), layer_scale))


def _fold_attention(block: TensorReader, writer: TensorWriter) -> None:
    """Folds the norm's affine into qkv and the layer scale into proj."""
    mixer, norm = block.child("token_mixer"), block.child("norm")
    weight, bias = mixer.child("qkv").linear()
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
    writer.write("qkv", reparam.fold_input_affine(weight, bias, scale, shift))
    proj, shift = mixer.child("proj").linear()
    if shift is None:
        shift = mx.zeros(proj.shape[0])
    writer.write("proj", _scaled(Conv(proj, shift), block.child("layer_scale_1")))


def _fold_squeeze_excite(reader: TensorReader, writer: TensorWriter) -> None:
    for layer in ("fc1", "fc2"):
        writer.write_pointwise(layer, reader.child(layer).conv())


def _fold_pool(reader: TensorReader, writer: TensorWriter, name: str) -> None:
    """Folds a depthwise convolution of stride k and writes it as (k, k, C) weights."""
    conv = _conv_norm(reader)
    if conv.weight.shape[1] != 1:
        raise CheckpointError(
            f"tensor {reader.prefix}conv.weight has shape {conv.weight.shape}, which is"
            " no depthwise convolution's; the checkpoint is of another network"
        )
    writer.write(name, Conv(conv.weight[:, 0].transpose(1, 2, 0), conv.bias))


def fold_mobile_one(reader: TensorReader, shape: tuple[int, ...] | None = None) -> Conv:
    """One convolution of a MobileOne block: the sum of its k x k branches, its 1x1
    branch and its BatchNorm skip.

    Args:
        shape: (out, in / groups, k, k), where the skip is the only branch (the norm
            of RepMixer); the other branches tell it themselves.
    """
    if "reparam_conv" in reader:
        return reader.child("reparam_conv").conv()
    kxk = reader.child("conv_kxk")
    branches = [_conv_norm(kxk.child(index)) for index in kxk.indices()]
    if "conv_scale" in reader:
        branches.append(_conv_norm(reader.child("conv_scale")))
    if branches:
        shape = tuple(_sum(reader, branches).weight.shape)
    if "identity" in reader and shape is not None:
        norm = reader.child("identity").batch_norm(shape[0])
        branches.append(reparam.fold_skip(norm, shape))
    if not branches:
        raise CheckpointError(
            f"{reader.prefix}* has no convolution; the checkpoint is incomplete"
        )
    return _sum(reader, branches)


def _sum(reader: TensorReader, branches: list[Conv]) -> Conv:
    shapes = {branch.weight.shape[:2] for branch in branches}
    if len(shapes) > 1:
        raise CheckpointError(
            f"{reader.prefix}* has branches of shapes {sorted(shapes)}; the"
            " checkpoint's tensors do not belong together"
        )
    return reparam.add_branches(*branches)


def fold_token_mixer(reader: TensorReader) -> Conv:
    """One convolution of a RepMixer: x + layer_scale * (mixer(x) - norm(x))."""
    if "reparam_conv" in reader:
        return reader.child("reparam_conv").conv()
    mixer = fold_mobile_one(reader.child("mixer"))
    norm = fold_mobile_one(reader.child("norm"), tuple(mixer.weight.shape))
    _sum(reader, [mixer, norm])
    gamma = _gamma(reader.child("layer_scale"), mixer)
    return reparam.fold_rep_mixer(mixer, norm, gamma)


def fold_large_kernel(reader: TensorReader) -> Conv:
    """One convolution of RepLKNet's large and small branch."""
    if "reparam_conv" in reader:
        return reader.child("reparam_conv").conv()
    branches = [_conv_norm(reader.child("large_conv"))]
    if "small_conv" in reader:
        branches.append(_conv_norm(reader.child("small_conv")))
    return _sum(reader, branches)


def fold_position_encoding(reader: TensorReader) -> Conv:
    """One convolution of RepCPE: x + conv(x)."""
    if "reparam_conv" in reader:
        return reader.child("reparam_conv").conv()
    return reparam.fold_residual(*reader.child("pos_enc").conv())


def _conv_norm(reader: TensorReader) -> Conv:
    """A convolution with the BatchNorm that follows it, if there is one, folded in."""
    if "conv" not in reader:
        return reader.conv()
    conv = reader.child("conv")
    weight = conv.weight(4)
    bias = None
    if "bias" in conv:
        bias = conv.vector("bias", weight.shape[0])
    norm = reader.child("bn").batch_norm(weight.shape[0])
    return reparam.fold_batch_norm(weight, norm, bias)


def _scaled(layer: Conv, scale: TensorReader) -> Conv:
    gamma = _gamma(scale, layer)
    return layer if gamma is None else reparam.fold_layer_scale(*layer, gamma)


def _gamma(scale: TensorReader, layer: Conv) -> mx.array | None:
    """The layer scale, or None where the network was trained without."""
    return scale.vector("gamma", layer.weight.shape[0]) if "gamma" in scale else None
