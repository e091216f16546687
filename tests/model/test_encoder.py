"""`FastVLMModel.encoder`: what may encode images in place of the vision tower."""

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import CheckpointError
from tests.support.mock_model import HIDDEN, MockModel

PIXELS = mx.zeros((2, 128, 128, 3))


class Ones:
    def __init__(self, width: int, projected: bool):
        self.width, self.projected = width, projected

    def __call__(self, pixels):
        return mx.ones((len(pixels), 4, self.width), mx.float16)


def test_features_go_through_the_projector_and_embeddings_do_not():
    model = MockModel()
    own = model.encode_pixels(PIXELS)
    names = set(model.parameters())
    model.encoder = Ones(32, projected=False)
    features = model.encode_features(PIXELS)
    assert mx.array_equal(features, mx.ones((2, 4, 32)))
    embeddings = model.encode_pixels(PIXELS)
    assert embeddings.dtype == mx.float32 and embeddings.shape == (2, 4, HIDDEN)
    assert not mx.array_equal(embeddings, features)
    model.encoder = Ones(HIDDEN, projected=True)
    assert mx.array_equal(model.encode_pixels(PIXELS), mx.ones((2, 4, HIDDEN)))
    assert set(model.parameters()) == names  # it is none of the model's weights
    model.encoder = None
    assert mx.array_equal(model.encode_pixels(PIXELS), own)


def test_a_model_without_a_tower_needs_an_encoder():
    model = MockModel(vision=None, projector=None)
    with pytest.raises(CheckpointError, match="has no vision encoder"):
        model.encode_pixels(PIXELS)
    model.encoder = Ones(HIDDEN, projected=False)
    with pytest.raises(CheckpointError, match="encoder alone"):
        model.encode_pixels(PIXELS)
    model.encoder = Ones(HIDDEN, projected=True)
    assert model.encode_pixels(PIXELS).shape == (2, 4, HIDDEN)
