"""Encoders of timm's FastViT, folded here, against timm itself (needs torch)."""

from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.convert import to_mlx
from tests.support.assert_close import assert_close

pytestmark = pytest.mark.parity
LIMIT = 1e-3
NO = (False,)

# The released networks' shapes, at a fraction of their sizes.
FOUR: dict[str, Any] = {
    "mlp_ratios": (3,) * 4,
    "se_downsamples": (False, False, True, True),
    "token_mixers": ("repmixer",) * 3 + ("attention",),
}
FIVE: dict[str, Any] = {
    "mlp_ratios": (4,) * 5,
    "se_downsamples": NO * 5,
    "downsamples": (False, True, True, True, True),
    "token_mixers": ("repmixer",) * 3 + ("attention",) * 2,
    "stem_use_scale_branch": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "mci0": FOUR | {"layers": (1, 2, 3, 1), "embed_dims": (8, 16, 32, 64)},
    "mci1": FOUR | {"layers": (2, 3, 4, 2), "embed_dims": (8, 16, 32, 64)},
    "mci2": FOUR | {"layers": (1, 2, 2, 2), "embed_dims": (10, 20, 40, 160)},
    "mci3": FIVE | {"layers": (1, 2, 3, 1, 1), "embed_dims": (8, 16, 32, 64, 128)},
    "mci4": FIVE | {"layers": (1, 1, 2, 1, 2), "embed_dims": (12, 24, 48, 96, 192)},
}


def network(variant: str, fused: bool) -> Any:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    fastvit = timm.models.fastvit
    sizes: dict[str, Any] = VARIANTS[variant]
    position = partial(fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))
    sizes = sizes | {
        "pos_embs": tuple(
            position if mixer == "attention" else None
            for mixer in sizes["token_mixers"]
        )
    }
    if len(sizes["layers"]) == 5:
        sizes["norm_layer"] = partial(timm.layers.LayerNorm2d, eps=1e-5)
    torch.manual_seed(VARIANTS[variant]["embed_dims"][0])
    net = fastvit.FastVit(lkc_use_act=True, num_classes=7, **sizes)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.2, 3.0)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0.0, 0.2)
            elif "gamma" in name:
                tensor.normal_(0.4, 0.3)
            elif tensor.ndim == 1:
                tensor.normal_(1.0, 0.3)
            elif tensor.ndim > 1:
                tensor.normal_(0.0, tensor[0].numel() ** -0.5)
    if fused:
        for module in net.modules():
            if hasattr(module, "reparameterize"):
                module.reparameterize()
    return net.eval()


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_features(variant: str, fused: bool, tmp_path: Path):
    torch = pytest.importorskip("torch")
    net = network(variant, fused)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    source = tmp_path / "encoder.safetensors"
    mx.save_safetensors(str(source), {n: mx.array(a) for n, a in state.items()})
    to_mlx.convert(source, tmp_path / "out")
    model = load(tmp_path / "out", dtype="float32")
    assert model.vision_tower is not None

    pixels = np.random.default_rng(3).uniform(0, 1, (2, 128, 128, 3))
    pixels = pixels.astype(np.float32)
    with torch.no_grad():
        wanted = net.forward_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
    wanted = wanted.flatten(2).transpose(1, 2).numpy()
    assert_close(variant, model.vision_tower(mx.array(pixels)), wanted, LIMIT)
