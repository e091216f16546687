"""Images that Python code has in memory: file objects and arrays."""

import io

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import ImageError, OptionError
from fastvlm_mlx.processing.image_file import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "kind", ["memory", "file", "numpy", "mlx", "bytearray", "view"]
)
def test_one_image_in_many_forms(kind, tmp_path):
    (tmp_path / "image.png").write_bytes(png())
    with (tmp_path / "image.png").open("rb") as file:
        source = {
            "memory": io.BytesIO(png()),
            "file": file,
            "numpy": PIXELS,
            "mlx": mx.array(PIXELS),
            "bytearray": bytearray(png()),
            "view": memoryview(png()),
        }[kind]
        np.testing.assert_array_equal(np.asarray(open_image(source)), PIXELS)


def test_grey_and_transparent_arrays():
    grey = PIXELS[..., 0]
    for values in (grey, grey[..., None]):
        image = open_image(values)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image)[..., 2], grey)
    clear = np.dstack([PIXELS, np.zeros((5, 7), np.uint8)])
    assert np.asarray(open_image(clear)).min() == 255  # on white
    np.testing.assert_array_equal(  # a view of the array
        np.asarray(open_image(PIXELS[:, ::-1])), PIXELS[:, ::-1]
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "array of float32: not an image; give uint8"),
        (np.zeros((3, 4, 4), np.uint8)[None], "array of shape (1, 3, 4, 4): not an"),
        (np.zeros((3, 4, 5), np.uint8), "array of shape (3, 4, 5): not an image; give"),
        (np.zeros((0, 4), np.uint8), "array of shape (0, 4): not an image; give"),
        (io.BytesIO(), "BytesIO: nothing left to read; go to its start with seek(0)"),
        (io.StringIO("x"), "StringIO: not opened as binary; use open(PATH, 'rb')"),
    ],
)
def test_what_is_no_image(source, message):
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert str(caught.value).startswith(message)


def test_a_file_that_was_closed():
    file = io.BytesIO(png())
    file.close()
    with pytest.raises(ImageError, match="BytesIO: cannot be read .*open it again"):
        open_image(file)


def test_a_model_takes_them(tiny_model, tmp_path):
    image, question = Image.fromarray(PIXELS), "What is it?"
    wanted = tiny_model.ask(question, image, max_tokens=4)
    for source in (io.BytesIO(png()), PIXELS, [mx.array(PIXELS)]):
        assert tiny_model.ask(question, source, max_tokens=4) == wanted
    features = tiny_model.encode_image(PIXELS)
    np.testing.assert_array_equal(features, tiny_model.encode_image(image))
    # They have no path, so a saved conversation keeps the image itself.
    conversation = tiny_model.conversation(io.BytesIO(png()))
    said = conversation.ask(question, max_tokens=4)
    conversation.save(tmp_path / "talk.json")
    again = type(conversation).load(tiny_model, tmp_path / "talk.json")
    assert again.history[-1].text == said == wanted


@pytest.mark.parametrize("prompt", [None, 3, b"What?", ["What?"]])
def test_a_prompt_that_is_no_text(tiny_model, prompt):
    kind = "None" if prompt is None else f"of type {type(prompt).__name__}"
    message = f"prompt: is {kind}; give the question as a string, the images after it"
    with pytest.raises(OptionError) as caught:
        tiny_model.ask(prompt)
    assert str(caught.value) == message
    conversation = tiny_model.conversation()
    with pytest.raises(OptionError, match="give the question as a string"):
        conversation.ask(prompt)
    assert not conversation.history
