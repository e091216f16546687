"""Images of a conversation: positions, digests, one encoding each."""

from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx.conversation.attachment import Attachment, as_list, attach, length
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.processing.image_options import ImageOptions
from tests.support.mock_model import MockModel, make_image

OPTIONS = ImageOptions("pad", 128, None)


def test_a_pinpoint_of_one_tile_adds_no_tile():
    """The image as a whole, once."""
    model = MockModel(grid_pinpoints=((128, 128),))
    attached = attach(model, make_image(0, (80, 30)), OPTIONS)
    assert attached.tokens == 4
    assert isinstance(attached.pixels, np.ndarray)
    assert attached.pixels.shape == (1, 128, 128, 3)
    assert (
        attached.digest == attach(MockModel(), make_image(0, (80, 30)), OPTIONS).digest
    )
    # Two tiles come with the whole.
    model = MockModel(grid_pinpoints=((256, 128),))
    assert attach(model, make_image(0, (80, 30)), OPTIONS).tokens == 3 * 4


def test_tokens_follow_tiles_and_resolution(model):
    for resolution, tiles, tokens in (
        (64, None, 1),
        (128, None, 4),
        (256, None, 16),
        (128, (1, 1), 8),
        (64, (2, 3), 7),
    ):
        options = ImageOptions("pad", resolution, tiles)
        assert attach(model, make_image(), options).tokens == tokens


def test_an_image_is_encoded_once(model):
    attached = attach(model, make_image(), OPTIONS)
    assert attached.pixels is not None and model.encoded == 0
    features = attached.features(model)
    assert features.shape == (4, 32)
    assert attached.pixels is None
    assert attached.features(model) is features
    again = attach(model, make_image(), OPTIONS)
    assert again.digest == attached.digest
    assert again.features(model).tolist() == features.tolist()
    assert model.encoded == 1


def test_pixels_are_made_when_they_are_needed(model):
    pixels = attach(model, make_image(), OPTIONS).pixels
    calls = []

    def make() -> np.ndarray:
        calls.append(1)
        assert isinstance(pixels, np.ndarray)
        return pixels

    late = [Attachment(None, None, "d", 4, make) for _ in range(2)]
    assert calls == []
    assert [one.features(model).shape for one in late] == [(4, 32)] * 2
    assert len(calls) == 1


def test_where_an_image_came_from(model, photo: Path, monkeypatch):
    for source in (photo, str(photo)):
        attached = attach(model, source, OPTIONS)
        assert (attached.path, attached.image) == (str(photo), None)
    attached = attach(model, photo.read_bytes(), OPTIONS)
    assert attached.path is None and attached.image is not None
    mine = make_image(1)
    attached = attach(model, mine, OPTIONS)
    assert attached.path is None and attached.image is not None
    assert attached.image is not mine
    shown = attached.image.tobytes()
    mine.paste((1, 2, 3), (0, 0, 5, 5))
    assert attached.image.tobytes() == shown
    assert attach(model, attached, OPTIONS) is attached


def test_the_time_that_opening_took(model, photo: Path):
    attached = attach(model, photo, OPTIONS)
    assert 0 < attached.decode_seconds < 60
    assert 0 < attached.preprocess_seconds < 60


def test_as_list():
    image = make_image()
    assert as_list(image) == [image]
    assert as_list("a.png") == ["a.png"]
    assert as_list(b"bytes") == [b"bytes"]
    assert list(as_list(("a", "b"))) == ["a", "b"]
    assert as_list([]) == []


def test_length(model):
    attached = attach(model, make_image(), OPTIONS)
    assert length([]) == 0
    assert length([[1, 2, 3], attached, [4]]) == 8


@pytest.mark.parametrize("number", [1, 2])
def test_an_image_added_joins_one_question(model, number):
    conversation = Conversation(model)
    for seed in range(number):
        conversation.add(make_image(seed))
    assert model.encoded == number
    *_, last = conversation.stream("What is it?", max_tokens=2)
    assert last.visual_tokens == 4 * number
    *_, last = conversation.stream("And why?", max_tokens=2)
    assert last.visual_tokens == 0
