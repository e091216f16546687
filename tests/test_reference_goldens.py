"""The reference checkpoints against their PyTorch goldens, in the order of the data.

Largest differences are held to 1e-3 of the golden's standard deviation; the greedy
tokens and the answers about the reference images must be the same to the token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.model.language import make_cache
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess
from tests.support.assert_close import assert_close

LAYOUTS = (
    "llava-mini",
    "llava-mini-train",
    "hf-mini",
    "mlx-community-mini",
    "mlx-community-mini-4bit",
)
LIMIT = 1e-3
IMAGES = "astronaut.png chelsea.png coffee.png coins.png page.png rocket.jpg".split()


@dataclass(frozen=True)
class Case:
    model: FastVLM
    golden: Any

    def spliced(self) -> mx.array:
        before, after = self.ids("before"), self.ids("after")
        visual = self.model.encode_pixels(self.pixels())
        return self.model.embed([before, visual[0], after])

    def ids(self, side: str) -> list[int]:
        return self.golden[f"ids_{side}"][0].tolist()

    def new_cache(self) -> list[Any]:
        return make_cache(self.model.language_model)

    def pixels(self) -> mx.array:
        # [1, 3, 256, 256] to [1, 256, 256, 3]
        return mx.array(self.golden["image"].transpose(0, 2, 3, 1))

    def all_logits(self, embeddings: mx.array) -> mx.array:
        ids = mx.zeros(embeddings.shape[:2], dtype=mx.int32)
        return self.model.language_model(ids, input_embeddings=embeddings)


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request: pytest.FixtureRequest, reference: Path) -> Iterator[Case]:
    folder = reference / request.param
    with np.load(folder / "golden.npz") as golden:
        # As published: converted on first use, into the tests' own cache.
        yield Case(load(folder, dtype="float32"), dict(golden))


def test_pixels(images: Path):
    with np.load(images / "preprocess_pad_256.npz") as golden:
        assert sorted(golden.files) == sorted(IMAGES)
        for name in golden.files:
            image = open_image(images / name)
            [pixels] = preprocess(image, ImageOptions("pad", 256))
            assert np.array_equal(pixels, golden[name]), name


def test_features(case: Case):
    assert case.model.vision_tower is not None
    features = case.model.vision_tower(case.pixels())
    assert_close("features", features, case.golden["features"], LIMIT)


def test_embeds(case: Case):
    assert case.model.projector is not None
    embeds = case.model.projector(mx.array(case.golden["features"]))
    assert_close("embeds", embeds, case.golden["embeds"], LIMIT)


def test_spliced(case: Case):
    spliced = case.spliced()
    before, after = (mx.array(case.ids(side)) for side in ("before", "after"))
    start, end = before.size, spliced.shape[1] - after.size
    table = case.model.embed_tokens
    assert_close("visual", spliced[:, start:end], case.golden["embeds"], LIMIT)
    assert mx.array_equal(spliced[0, :start], table(before))
    assert mx.array_equal(spliced[0, end:], table(after))


def test_logits_of_every_position(case: Case):
    logits = case.all_logits(case.spliced())
    assert_close("logits_all", logits, case.golden["logits_all"], LIMIT)


def test_last_logits(case: Case):
    logits = case.model.logits(case.spliced(), case.new_cache())
    assert_close("logits_last", logits, case.golden["logits_last"], LIMIT)


def test_greedy_tokens(case: Case):
    model, cache = case.model, case.new_cache()
    logits, tokens = model.logits(case.spliced(), cache), []
    for _ in case.golden["greedy"]:
        tokens.append(mx.argmax(logits).item())
        logits = model.logits(model.embed([[tokens[-1]]]), cache)
    assert tokens == case.golden["greedy"].tolist()


@pytest.mark.parametrize("name", IMAGES)
def test_whole_chat(case: Case, images: Path, name: str):
    ids = case.golden[f"chat/{name}"].tolist()
    prompt = "Describe the image."
    options = {"max_tokens": len(ids), "fit": "pad", "resolution": 256}
    chunks = list(case.model.stream(prompt, images / name, **options))
    answer = "".join(chunk.text for chunk in chunks)
    assert answer == case.model.tokenizer.decode(ids)
    tokens = [chunk.token for chunk in chunks if chunk.token is not None]
    assert tokens == ids[: len(tokens)]
    # Fewer only where the golden's next token ends the answer.
    stops = case.model.tokenizer.stop_ids
    assert len(tokens) == len(ids) or ids[len(tokens)] in stops
