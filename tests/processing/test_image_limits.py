"""Image options at their limits, and tiles that differ in rows and columns."""

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.processing.image_options import (
    ImageOptions,
    check_resolution,
    check_tiles,
    parse_tiles,
)
from fastvlm_mlx.processing.image_processor import preprocess, resize_to_square


@pytest.mark.parametrize("value", [64, 128, 1024, 4032, 4096])
def test_resolutions_taken(value: int):
    assert check_resolution(value) == value


@pytest.mark.parametrize(
    ("value", "near"),
    [
        *((0, 64), (-64, 64), (1, 64), (63, 64), (65, 64), (97, 128), (4095, 4096)),
        *((4097, 4096), (4160, 4096), (9999, 4096)),
    ],
)
def test_resolutions_refused(value: int, near: int):
    with pytest.raises(OptionError, match=f"from 64 to 4096; try {near}$"):
        check_resolution(value)


@pytest.mark.parametrize("tiles", [(1, 1), (1, 36), (36, 1), (6, 6), (4, 9)])
def test_tiles_taken(tiles: tuple[int, int]):
    assert check_tiles(*tiles) == tiles
    assert parse_tiles(f"{tiles[0]}x{tiles[1]}") == tiles


@pytest.mark.parametrize("tiles", [(0, 1), (1, 0), (-1, -1), (1, 37), (6, 7), (5, 8)])
def test_tiles_refused(tiles: tuple[int, int]):
    with pytest.raises(OptionError, match="must be 1 to 36 tiles, such as 2x3$"):
        check_tiles(*tiles)


def test_rows_are_rows_and_columns_columns():
    """Four quarters of one grey each: every tile shows its own."""
    image = Image.new("RGB", (256, 128))
    for column, grey in enumerate((40, 90, 140, 190)):
        image.paste((grey,) * 3, (64 * column, 0, 64 * column + 64, 128))
    pixels = preprocess(image, ImageOptions("stretch", 64, (2, 4)))
    assert pixels.shape == (9, 64, 64, 3)
    assert pixels.dtype == np.uint8
    greys = [tile[32, 32, 0] for tile in pixels[1:]]
    assert greys == [40, 90, 140, 190] * 2


def test_values_stay_as_they_are():
    for grey in (0, 1, 254, 255):
        image = Image.new("RGB", (64, 64), (grey,) * 3)
        pixels = preprocess(image, ImageOptions("pad", 64))
        assert pixels.min() == pixels.max() == grey


@pytest.mark.parametrize(("size", "rows"), [((128, 64), True), ((64, 128), False)])
def test_padding_is_black_and_centred(size: tuple[int, int], rows: bool):
    square = resize_to_square(Image.new("RGB", size, (255,) * 3), 128, "pad")
    lines = square[:, 64, 0] if rows else square[64, :, 0]
    assert lines[:28].max() == lines[-28:].max() == 0
    assert lines[36:-36].min() == 255
    assert np.array_equal(square, square[::-1, ::-1])


@pytest.mark.parametrize("size", [(192, 64), (64, 192)])
def test_a_crop_keeps_the_middle(size: tuple[int, int]):
    image = Image.new("RGB", size)
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    image.paste((255,) * 3, (left, top, left + 64, top + 64))
    square = resize_to_square(image, 64, "crop")
    assert square.shape == (64, 64, 3)
    assert square[8:-8, 8:-8].min() == 255
