"""Checkpoints made on the spot by PyTorch, of every layout, against PyTorch itself.

Unlike the goldens these are of any size and of unrounded weights, and the reference is
asked at once. Run by `make parity`, which shows the largest difference of each.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from fastvlm_mlx import load  # noqa: E402
from fastvlm_mlx.fastvlm import FastVLM as Ours  # noqa: E402
from fastvlm_mlx.model import language  # noqa: E402
from tests.support import reference_files as files  # noqa: E402
from tests.support import reference_goldens, reference_layouts  # noqa: E402
from tests.support.assert_close import assert_close  # noqa: E402
from tests.support.reference_models import FastVlm, Llava, Sizes  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
LIMIT = 1e-3
STEPS = 16
SMALL = Sizes()
UNFUSED = replace(SMALL, fused=False)
LARGER = Sizes(
    depths=(2, 3, 4, 2, 1),
    widths=(16, 32, 64, 128, 256),
    hidden=192,
    layers=4,
    heads=6,
    kv_heads=1,
    intermediate=416,
    tied=False,
)
LAYOUTS: dict[str, tuple[str, Sizes]] = {
    "llava": ("llava", SMALL),
    "llava-unfused": ("llava", UNFUSED),
    "llava-unfused-bfloat16": ("llava-bfloat16", replace(UNFUSED, tied=False)),
    "llava-larger": ("llava", LARGER),
    "llava-larger-unfused": ("llava", replace(LARGER, fused=False)),
    "transformers": ("transformers", SMALL),
    "transformers-unfused": ("transformers", UNFUSED),
    "transformers-larger": ("transformers", LARGER),
    "mlx-community": ("mlx-community", SMALL),
    "mlx-community-4bit": ("mlx-community-4bit", SMALL),
    "mlx-community-8bit": ("mlx-community-8bit", LARGER),
}


@dataclass(frozen=True)
class Pair:
    """The reference, and our model of the checkpoint that was written from it."""

    name: str
    reference: Any
    ours: Ours
    side: int

    @property
    def image(self) -> np.ndarray:
        """(side, side, 3) in 0..1"""
        random = np.random.default_rng(self.side)
        return random.uniform(0, 1, (self.side, self.side, 3)).astype(np.float32)

    @property
    def theirs(self) -> Any:
        return torch.from_numpy(self.image.transpose(2, 0, 1)[None].copy())

    @property
    def pixels(self) -> mx.array:
        return mx.array(self.image[None])

    def check(self, what: str, given: Any, wanted: Any) -> None:
        assert_close(f"{self.name}, {self.side} px: {what}", given, wanted, LIMIT)


def written(layout: str, sizes: Sizes, folder: Path) -> Any:
    """The reference, after its checkpoint is in `folder`."""
    if layout == "transformers":
        model = FastVlm(sizes, seed=7)
        files.write(folder, {"model": files.arrays(model.model)}, model.config())
        return model
    model = Llava(sizes, seed=7)
    kind, dtype = layout.removesuffix("-bfloat16"), torch.float32
    if kind != layout:
        dtype = torch.bfloat16
        for part in model.parts:
            files.to_bfloat16(part)
    encoder, projector, language_model = map(files.arrays, model.parts)
    config = reference_layouts.llava_config(sizes, str(dtype).removeprefix("torch."))
    if kind.endswith("bit"):
        bits = int(kind[-4])
        values, language_model = files.quantize(language_model, bits)
        files.load(model.language_model, values)
        config["quantization"] = {"group_size": files.GROUP_SIZE, "bits": bits}
    if kind.startswith("mlx"):
        tensors = reference_layouts.mlx_community(encoder, projector, language_model)
        config["vision_config"] = {}
    else:
        tensors = reference_layouts.llava(encoder, projector, language_model)
    files.write(folder, {"model": tensors}, config, dtype=dtype)
    return model


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request, tmp_path_factory) -> tuple[str, Any, Ours]:
    folder = tmp_path_factory.mktemp(request.param)
    reference = written(*LAYOUTS[request.param], folder)
    return request.param, reference, load(folder, dtype="float32")


@pytest.fixture(params=[192, 256])
def pair(request, made: tuple[str, Any, Ours]) -> Pair:
    return Pair(*made, side=request.param)


def test_features(pair: Pair):
    assert pair.ours.vision_tower is not None
    given = pair.ours.vision_tower(pair.pixels)
    pair.check("features", given, pair.reference.features(pair.theirs))


def test_embeds(pair: Pair):
    given = pair.ours.encode_pixels(pair.pixels)
    pair.check("embeds", given, pair.reference.embeds(pair.theirs))


def test_logits(pair: Pair):
    before, after = reference_goldens.prompt_ids()
    visual = pair.ours.encode_pixels(pair.pixels)
    embeddings = pair.ours.embed([before, visual[0], after])
    ids = mx.zeros(embeddings.shape[:2], dtype=mx.int32)
    given = pair.ours.language_model(ids, input_embeddings=embeddings)
    pair.check("logits", given, pair.reference.logits(pair.theirs, before, after))


def test_greedy(pair: Pair):
    """The same tokens, wherever the reference's likeliest is ahead of what rounding
    may move; each step goes on from the reference's token."""
    before, after = reference_goldens.prompt_ids()
    model = pair.ours
    cache = language.make_cache(model.language_model)
    visual = model.encode_pixels(pair.pixels)
    given = model.logits(model.embed([before, visual[0], after]), cache)
    tokens: list[int] = []
    compared, largest = 0, 0.0
    for _ in range(STEPS):
        wanted = pair.reference.logits(pair.theirs, before, after + tokens)[0, -1]
        (best, second), (token, _) = wanted.topk(2)
        deviation = float(wanted.std())
        difference = np.abs(np.asarray(given[0]) - wanted.numpy()).max() / deviation
        largest = max(largest, float(difference))
        if float(best - second) > reference_goldens.MARGIN * deviation:
            assert mx.argmax(given).item() == int(token), f"step {len(tokens)}"
            compared += 1
        tokens.append(int(token))
        given = model.logits(model.embed([tokens[-1:]]), cache)
    print(
        f"{pair.name}, {pair.side} px: greedy: {compared} of {STEPS} tokens clear,"
        f" all the same; largest difference of logits {largest:.2e} of the std"
    )
    assert compared >= STEPS * 3 // 4 and largest <= LIMIT
