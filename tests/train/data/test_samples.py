"""One sample, the count of many, and the kept features of an image."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import CheckpointError, DataError
from fastvlm_mlx.model import encoder_identity
from fastvlm_mlx.model.feature_files import (
    DamagedFeatures,
    array_hash,
    read_features,
    write_features,
)
from fastvlm_mlx.train.data.report import DataReport, count
from fastvlm_mlx.train.data.samples import Sample
from tests.support.mock_model import MockModel


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (DataReport("x"), "0 samples, 0 images"),
        (DataReport("x", samples=1, images=1, turns=1), "1 sample, 1 image"),
        (
            DataReport("x", samples=2, images=2, turns=3, text_only=1, cut_off=1),
            "2 samples, 2 images, 3 questions, 1 without an image, 1 answer cut off by"
            " their length",
        ),
        (
            DataReport(
                "x", duplicates=1, empty_answers=2, failed=1, faults=("a:1: b",) * 2
            ),
            "0 samples, 0 images; left out: 1 duplicate, 2 empty answers,"
            " 1 failed caption, 2 bad rows",
        ),
    ],
)
def test_one_line_of_a_report(report: DataReport, line: str):
    assert report.summary() == line


def test_what_is_counted():
    assert [count(number, "row") for number in (0, 1, 2)] == [
        "0 rows",
        "1 row",
        "2 rows",
    ]
    for name in ("samples", "images", "turns", "text_only", "duplicates"):
        assert getattr(DataReport("x"), name) == 0
    for name in ("empty_answers", "failed", "cut_off"):
        assert getattr(DataReport("x"), name) == 0


TURNS = (("q", "a"), ("r", "b"))


def test_which_question_an_image_joins():
    assert Sample((b"1", b"2"), TURNS).joining() == (2, 0)
    assert Sample((b"1", b"2"), TURNS, images_by_turn=(0, 2)).joining() == (0, 2)
    assert Sample((), TURNS).joining() == (0, 0)
    assert Sample((), TURNS).answers == ("a", "b")


@pytest.mark.parametrize(
    ("images", "turns", "by_turn", "told"),
    [
        (0, (), (), "a sample: has no turns; give a question and its answer"),
        (
            1,
            TURNS,
            (1,),
            "a sample: images_by_turn (1,) for 2 turns and 1 images; give",
        ),
        (1, TURNS, (1, 1), "a sample: images_by_turn (1, 1) for 2 turns and 1 images"),
        (1, TURNS, (2, -1), "a sample: images_by_turn (2, -1) for 2 turns and 1 image"),
    ],
)
def test_samples_that_cannot_be(images: int, turns: Any, by_turn: Any, told: str):
    with pytest.raises(DataError) as caught:
        Sample((b"x",) * images, turns, images_by_turn=by_turn)
    assert str(caught.value).startswith(told)
    with pytest.raises(DataError, match="^rows:3: "):
        Sample((b"x",) * images, turns, origin="rows:3", images_by_turn=by_turn)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_features_are_read_as_written(tmp_path: Path, dtype: mx.Dtype):
    array = mx.arange(6).reshape(2, 3).astype(dtype)
    path = tmp_path / "in" / "x.safetensors"
    write_features(path, array)
    write_features(path, array)  # replaces it
    found = read_features(path)
    assert found.dtype == dtype and mx.array_equal(found, array)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFeatures):
        read_features(path)
    write_features(path, array.reshape(6))
    with pytest.raises(DamagedFeatures, match="its content has changed"):
        read_features(path)
    with pytest.raises(DamagedFeatures):
        read_features(tmp_path / "none")


def test_a_hash_is_of_shape_kind_and_values():
    array = mx.arange(6).astype(mx.float32)
    others = [
        array,
        array.reshape(2, 3),
        array.astype(mx.float16),
        array.astype(mx.bfloat16),
        array + 1,
    ]
    assert len({array_hash(one) for one in others}) == len(others)
    assert array_hash(array) == array_hash(mx.arange(6).astype(mx.float32))
    assert len(array_hash(array)) == 32


def test_the_width_of_an_encoder():
    model = MockModel()
    dims = model.config.projector.dims  # type: ignore[union-attr]
    assert encoder_identity.encoder_width(model) == dims[0]
    named: Any = SimpleNamespace(config=model.config, vision_tower=None, encoder=None)
    with pytest.raises(
        CheckpointError, match="no vision encoder; convert it with --en"
    ):
        encoder_identity.encoder_width(named)
    wide = SimpleNamespace(projector=SimpleNamespace(dims=(5, 6, 7)), text=object())
    for projected, width in ((True, 7), (False, 5)):
        named.config = wide
        named.encoder = SimpleNamespace(projected=projected)
        assert encoder_identity.encoder_width(named) == width
    for lacking in ("projector", "text"):
        parts = {"projector": model.config.projector, "text": model.config.text}
        named.config = SimpleNamespace(**{**parts, lacking: None})
        with pytest.raises(CheckpointError, match="an encoder alone and cannot be tra"):
            encoder_identity.encoder_width(named)


def test_the_hash_of_an_encoder():
    model = MockModel()
    first = encoder_identity.encoder_hash(model, 64)
    assert len(first) == 32 and encoder_identity.encoder_hash(MockModel(), 32) == first
    seen: list[Any] = []

    def features(pixels: Any) -> mx.array:
        seen.append((pixels.shape, float(pixels.min()), float(pixels.max())))
        return mx.ones((1, 2, 3))

    other: Any = SimpleNamespace(encoder=object(), encode_features=features)
    assert encoder_identity.encoder_hash(other, 8) != first
    assert seen == [((1, 8, 8, 3), 0.0, 1.0)]
    none: Any = SimpleNamespace(encoder=None, vision_tower=None)
    assert encoder_identity.encoder_hash(none, 8) != first
