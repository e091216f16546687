"""Layout detection and renaming of tensors."""

import pytest

from fastvlm_mlx.convert.fold.fold_encoder import fold_encoder
from fastvlm_mlx.convert.source import layouts
from fastvlm_mlx.errors import CheckpointError
from tests.support import checkpoints, encoders
from tests.support.checkpoints import Spec
from tests.support.encoders import MCI, Encoder

SPECS = [
    Spec(layout=layout, encoder=encoder, tied=False)
    for layout in (
        "llava",
        "transformers",
        "mlx-community",
        "mlx-export",
        "mobileclip",
        "openclip",
        "encoder",
        "timm",
    )
    for encoder in (Encoder(), Encoder(fused=False, stem_scale=True), MCI)
]


def ids(spec: Spec) -> str:
    form = "folded" if spec.encoder.fused else "unfolded"
    return f"{spec.layout}-{form}-{len(spec.encoder.widths)}"


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_detect(spec: Spec):
    found = layouts.detect(list(checkpoints.tensors(spec)))
    assert found.name == {"timm": "encoder"}.get(spec.layout, spec.layout)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_every_layout_is_renamed_to_the_same_names(spec: Spec):
    stored = list(checkpoints.tensors(spec))
    renamed = layouts.rename(stored, layouts.detect(stored))
    timm = encoders.in_timm_names(encoders.build(spec.encoder), spec.encoder)
    wanted = {f"vision_tower.{n}" for n in timm if "num_batches" not in n}
    given = {n for n in renamed.values() if n.startswith("vision_tower.")}
    assert given == (set() if spec.layout == "mlx-export" else wanted)
    text = {n for n in renamed.values() if n.startswith("language_model.")}
    if "config.json" in spec.layout or text:
        assert text == {
            f"language_model.{n}" for n in checkpoints.language_model(spec, 0)
        }


@pytest.mark.parametrize("encoder", [Encoder(fused=False), MCI], ids=["five", "four"])
def test_the_flat_network_is_numbered_by_what_it_holds(encoder: Encoder):
    stored = list(encoders.build(encoder))
    found = set(layouts.rename(stored, layouts.detect(stored)).values())
    last = len(encoder.widths) - 1
    assert f"vision_tower.stages.{last}.blocks.0.token_mixer.qkv.weight" in found
    assert f"vision_tower.stages.{last}.downsample.proj.0" in {
        name.rsplit(".", 2)[0].removesuffix(".large_conv") for name in found
    } | {name.split(".large_conv")[0].split(".reparam_conv")[0] for name in found}
    position = "pos_enc" if not encoder.fused else "reparam_conv"
    assert f"vision_tower.stages.{last}.pos_emb.{position}.weight" in found
    assert not any("network" in name for name in found)


def test_what_inference_does_not_need_is_dropped():
    for name in (
        "image_encoder.model.head.proj",
        "image_encoder.model.conv_exp.rbr_scale.bn.num_batches_tracked",
        "text_encoder.layers.0.weight",
        "logit_scale",
    ):
        stored = ["image_encoder.model.stem.0.reparam_conv.weight", name]
        assert name not in layouts.rename(stored, layouts.detect(stored))
    stored = [
        "model.vision_tower.vision_tower.model.conv_exp.reparam_conv.bias",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ]
    assert len(layouts.rename(stored, layouts.detect(stored))) == 1


def test_a_tensor_of_another_model_is_named():
    stored = ["model.vision_tower.vision_tower.model.stem.0.x", "decoder.weight"]
    with pytest.raises(CheckpointError, match="^tensor decoder.weight does not belong"):
        layouts.rename(stored, layouts.detect(stored))


def test_unknown_layouts_say_what_is_known():
    with pytest.raises(CheckpointError, match=r"^unknown layout \(bert.x\); known are"):
        layouts.detect(["bert.x"])
    with pytest.raises(CheckpointError, match=r"^unknown layout \(no tensors at all\)"):
        layouts.detect([])


def test_two_tensors_of_one_place_are_refused():
    prefix = "image_encoder.model."
    stored = [
        f"{prefix}patch_embed.0.reparam_conv.bias",
        f"{prefix}stem.0.reparam_conv.bias",
    ]
    with pytest.raises(CheckpointError, match="are the same part of the model"):
        layouts.rename(stored, layouts.detect(stored))


def test_the_encoder_sizes_come_from_the_tensors():
    encoder = Encoder(depths=(2, 1, 3, 2, 1), mlp_ratio=3, se_dim=5, fused=False)
    stored = encoders.to_mlx(encoders.in_timm_names(encoders.build(encoder), encoder))
    renamed = layouts.rename(list(stored), layouts.detect(list(stored)))
    _, config = fold_encoder({new: stored[old] for old, new in renamed.items()})
    assert config.depths == encoder.depths
    assert config.embed_dims == encoder.widths
    assert config.mlp_dims == tuple(3 * width for width in encoder.widths)
    assert config.token_mixers == ("repmixer",) * 3 + ("attention",) * 2
    assert config.pos_emb_kernels == (0, 0, 0, 7, 7)
    assert (config.out_dim, config.out_se_dim) == (encoder.out_dim, 5)
    assert config.layer_norm and config.stride == 64
