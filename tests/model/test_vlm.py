"""FastVLMModel called with ids and images, as training code does."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.model.config import ProjectorConfig
from fastvlm_mlx.model.vlm import IMAGE_TOKEN_INDEX
from tests.support.mock_model import VOCABULARY, MockModel

IMAGE = IMAGE_TOKEN_INDEX
PIXELS = mx.random.uniform(shape=(2, 128, 128, 3), key=mx.random.key(1))


def test_each_image_stands_where_its_id_is(model):
    ids = mx.array([[1, IMAGE, 2, 3], [4, 5, 6, IMAGE]])
    given = model(ids, PIXELS)
    assert given.shape == (2, 4 - 1 + 4, VOCABULARY)
    features = model.encode_pixels(PIXELS)
    rows = ([[1], features[0], [2, 3]], [[4, 5, 6], features[1]])
    for row, pieces in enumerate(rows):
        wanted = model.language_model(
            mx.zeros((1, 7), mx.int32), input_embeddings=model.embed(pieces)
        )
        assert mx.allclose(given[row], wanted[0], rtol=1e-3, atol=1e-3)


def test_bytes_are_scaled_to_the_same_floats(model):
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(1, 64, 64, 3) % 256
    scaled = pixels.astype(np.float32) / np.float32(255)
    given = model.encode_pixels(pixels.astype(np.uint8))
    assert mx.array_equal(given, model.encode_pixels(scaled))


def test_ids_alone(model):
    ids = mx.array([[1, 2, 3]])
    assert mx.allclose(model(ids), model.language_model(ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("ids", "count"),
    [([[1, IMAGE]], 2), ([[1, 2]], 1), ([[IMAGE, IMAGE], [1, 2]], 2), ([[IMAGE]], 0)],
)
def test_images_that_do_not_match_the_ids(model, ids, count):
    pixels = PIXELS[:count] if count else None
    with pytest.raises(OptionError, match=f"image places by row for {count} images"):
        model(mx.array(ids), pixels)


@pytest.mark.parametrize("worst", [1.0, float("inf"), float("nan")])
def test_only_features_that_are_not_finite_are_made_again(worst: float, monkeypatch):
    """In bfloat16, with all that is computed after them; asked of the first only."""
    model = MockModel()
    model.set_dtype(mx.float16)
    tower, projector = model.vision_tower, model.projector
    assert tower is not None and projector is not None
    used: list[mx.Dtype] = []

    def features(pixels: mx.array) -> mx.array:
        used.append(tower.stem.conv.weight.dtype)
        large = 2.0 if used[-1] == mx.bfloat16 else worst
        return mx.array([[[1.0, large]]])

    monkeypatch.setattr(type(tower), "__call__", lambda _, pixels: features(pixels))
    model.check_finite = True
    given = [model.encode_features(PIXELS).tolist() for _ in range(2)]
    if worst == 1.0:
        assert given == [[[[1.0, 1.0]]]] * 2 and used == [mx.float16] * 2
    else:
        assert given == [[[[1.0, 2.0]]]] * 2
        assert used == [mx.float16, mx.bfloat16, mx.bfloat16]
    assert projector.layers[0].weight.dtype == used[-1]
    assert not model.check_finite


def test_another_encoder_with_a_projector_that_has_no_layers():
    """Its features are the embeddings, in the dtype that they come in."""
    model = MockModel(projector=ProjectorConfig("identity", (32,)))
    features = mx.ones((1, 4, 32), mx.float16)

    class Encoder:
        projected = False

        def __call__(self, pixels: Any) -> mx.array:
            return features

    model.encoder = Encoder()
    assert model.project(features) is features
