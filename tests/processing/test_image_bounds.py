"""Where the limits on images lie, and pixels of images in strips."""

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.processing import image_file, image_pixels, image_processor
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import parse_tiles
from fastvlm_mlx.processing.image_pixels import orientation
from fastvlm_mlx.processing.image_processor import (
    content_hash,
    resize_to_square,
    select_grid,
    tile_image,
)
from tests.support.small_images import assert_close, encoded, noise, refused

BICUBIC = Image.Resampling.BICUBIC


def test_the_longest_side():
    assert (image_file.MAX_PIXELS, image_file.MAX_SIDE) == (200_000_000, 65_535)
    for size in ((65_535, 1), (1, 65_535)):
        assert open_image(Image.new("RGB", size)).size == size
    for size in ((65_536, 1), (1, 65_536)):
        fault = refused(Image.new("RGB", size), "image")
        assert fault == (
            f"{size[0]}x{size[1]} is more than 200 megapixels or 65535 pixels a side;"
            " scale it down first"
        )


def test_as_many_pixels_as_are_allowed(monkeypatch):
    data = encoded(noise(20, 30), "PNG")
    monkeypatch.setattr(image_file, "MAX_PIXELS", 600)
    assert open_image(data).size == (20, 30)
    assert image_file.size_of(data, ["PNG"]) == (20, 30)


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_no_pixels(size):
    fault = refused(Image.new("RGB", size), "image")
    assert fault == f"the image is {size[0]}x{size[1]}; give one of pixels"


def test_what_is_an_address_and_what_a_path():
    assert "no such file" in refused("a" * 14 + "://b", "a" * 14 + "://b")
    with pytest.raises(FastVLMError, match="give a path, http or https"):
        open_image("a" * 13 + "://b")


def test_an_orientation_of_another_type_turns_nothing():
    for value in ("6", 6.5, None, b"6"):
        image = Image.new("RGB", (2, 1))
        image.getexif()[0x0112] = value
        assert orientation(image) == 1


@pytest.mark.parametrize("strip", [1, 7, 1 << 18])
@pytest.mark.parametrize("mode", ["I", "F"])
def test_the_scale_is_that_of_all_strips(mode, strip, monkeypatch):
    """The least and the largest value stand in rows of their own."""
    monkeypatch.setattr(image_pixels, "_STRIP_PIXELS", strip)
    dtype = np.int32 if mode == "I" else np.float32
    for places in (((0, 0), (4, 6)), ((4, 6), (0, 0)), ((2, 3), (4, 0))):
        values = np.zeros((5, 7), dtype)
        values[places[0]], values[places[1]] = -100_000, 100_000
        opened = np.asarray(open_image(Image.fromarray(values)))[..., 0]
        assert opened[places[0]] == 0 and opened[places[1]] == 255
        assert np.count_nonzero(opened == 128) == 33


@pytest.mark.parametrize(
    ("top", "shown"),
    [(255, 255), (256, 1), (65535, 255), (65536, 255), (254, 254), (1, 1)],
)
def test_scales_of_whole_numbers(top, shown):
    image = Image.fromarray(np.array([[0, top]], np.int32))
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, shown]


@pytest.mark.parametrize(("top", "shown"), [(1.0, 255), (1.5, 2), (255.5, 1)])
def test_scales_of_floats(top, shown):
    image = Image.fromarray(np.array([[0, top]], np.float32))
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, shown]


def test_a_transparent_value_of_32_bits_is_white():
    image = Image.fromarray(np.array([[0, 5, 255]], np.int32))
    image.info["transparency"] = 5
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, 255, 255]


def letterboxed(image: Image.Image, width: int, height: int) -> np.ndarray:
    """LLaVA's resize_and_pad_image, written out."""
    scale = min(width / image.width, height / image.height)
    size = (
        min(int(np.ceil(image.width * scale)), width),
        min(int(np.ceil(image.height * scale)), height),
    )
    canvas = Image.new("RGB", (width, height))
    at = ((width - size[0]) // 2, (height - size[1]) // 2)
    canvas.paste(image.resize(size, BICUBIC), at)
    return np.asarray(canvas)


def joined(tiles: list[np.ndarray], rows: int, columns: int) -> np.ndarray:
    lines = [
        np.concatenate(tiles[n * columns : (n + 1) * columns], axis=1)
        for n in range(rows)
    ]
    return np.concatenate(lines)


SHAPES = [(300, 100), (100, 300), (130, 131), (10, 10), (64, 128), (101, 33), (7, 99)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_padded_tiles_to_the_byte(shape, grid):
    image, (rows, columns) = noise(*shape), grid
    _, *tiles = tile_image(image, 64, rows, columns)
    assert_close(joined(tiles, *grid), letterboxed(image, columns * 64, rows * 64), 0)
    _, *tiles = tile_image(image, 64, rows, columns, "stretch")
    wanted = image.resize((columns * 64, rows * 64), BICUBIC)
    assert_close(joined(tiles, *grid), wanted, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (2, 2)])
def test_cropped_tiles_keep_the_middle(shape, grid):
    image, (rows, columns) = noise(*shape), grid
    width, height = columns * 64, rows * 64
    scale = max(width / shape[0], height / shape[1])
    w, h = width / scale, height / scale
    left, top = (shape[0] - w) / 2, (shape[1] - h) / 2
    box = (max(left, 0), max(top, 0), min(left + w, shape[0]), min(top + h, shape[1]))
    assert min(abs(w - shape[0]), abs(h - shape[1])) < 1e-9
    wanted = image.resize((width, height), BICUBIC, box)
    overview, *tiles = tile_image(image, 64, rows, columns, "crop")
    assert_close(joined(tiles, *grid), wanted, 0)
    assert_close(overview, resize_to_square(image, 64, "crop"), 0)


@pytest.mark.parametrize(
    ("size", "pinpoints", "chosen"),
    [
        # As many pixels are kept by both: the one with less padding.
        ((100, 100), [[400, 400], [200, 200]], (200, 200)),
        ((100, 100), [[200, 200], [400, 400]], (200, 200)),
        # Of two alike, the first.
        ((100, 100), [[100, 200], [200, 100]], (100, 200)),
        ((100, 100), [[200, 100], [100, 200]], (200, 100)),
        # More pixels kept go before less padding.
        ((200, 100), [[100, 50], [400, 400]], (400, 400)),
        ((7, 3), [[1, 1]], None),  # nothing of the image would be left
        ((100, 50), [[64.0, 32.0]], (64, 32)),
    ],
)
def test_the_best_grid(size: tuple[int, int], pinpoints, chosen):
    if chosen is None:
        with pytest.raises(FastVLMError, match="give pairs of pixels"):
            select_grid(*size, pinpoints)
    else:
        assert select_grid(*size, pinpoints) == chosen


@pytest.mark.parametrize("strip", [1, 100, 1 << 22])
def test_padding_in_strips_of_few_rows(strip, monkeypatch):
    image = noise(37, 90)
    wanted = resize_to_square(image, 64)
    monkeypatch.setattr(image_processor, "_STRIP_PIXELS", strip)
    assert_close(resize_to_square(image, 64), wanted, 0)


def test_the_hash_is_of_the_values_in_their_order():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert content_hash(pixels) == content_hash(Image.fromarray(pixels))
    assert content_hash(pixels[::-1]) == content_hash(pixels[::-1].copy())
    assert content_hash(pixels[::-1]) != content_hash(pixels)


@pytest.mark.parametrize("text", ["2\u00d73", "2X3", "02x03", "2 x\t3\n", "0002x0003"])
def test_ways_to_write_tiles(text):
    assert parse_tiles(text) == (2, 3)


def test_tiles_of_too_many_digits():
    with pytest.raises(FastVLMError, match="must be 1 to 36 tiles"):
        parse_tiles("1x9999")
    for text in ("1x00001", "00001x1"):
        with pytest.raises(FastVLMError, match="give rows x columns"):
            parse_tiles(text)
