"""Images fitted to the byte, tiled as LLaVA does, and the options refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.processing import image_processor
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import (
    ImageOptions,
    check_resolution,
    parse_tiles,
)
from fastvlm_mlx.processing.image_processor import (
    content_hash,
    preprocess,
    resize_to_square,
    select_grid,
    tile_image,
)
from tests.support.small_images import assert_close, noise

BICUBIC = Image.Resampling.BICUBIC


def test_import_is_light():
    code = (
        "import sys, fastvlm_mlx.processing.image_processor;"
        "print([m for m in ('mlx', 'transformers', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# Fitting


def padded(image: Image.Image, size: int) -> np.ndarray:
    """The reference, written out: the whole square, then one resize."""
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((size, size), BICUBIC))


def test_pad_golden(images: Path):
    golden = np.load(images / "preprocess_pad_256.npz")
    for name in golden.files:
        print(name)
        got = resize_to_square(open_image(images / name), 256)
        assert_close(got, golden[name], 0)


@pytest.mark.parametrize(
    "shape",
    [(64, 64), (100, 37), (37, 100), (17, 5), (3, 500), (500, 3), (256, 255), (1, 1)],
)
@pytest.mark.parametrize("strip", [1 << 22, 700])
def test_pad_is_exact(shape, strip, monkeypatch):
    monkeypatch.setattr(image_processor, "_STRIP_PIXELS", strip)
    image = noise(*shape)
    for size in (64, 192):
        assert_close(resize_to_square(image, size), padded(image, size), 0)


@pytest.mark.parametrize(
    "shape", [(100, 64), (64, 100), (301, 200), (90, 91), (64, 64)]
)
def test_crop(shape):
    image, size = noise(*shape), 64
    short = min(shape)
    width, height = (size * side // short for side in shape)
    left, top = (width - size) // 2, (height - size) // 2
    whole = image.resize((width, height), BICUBIC)
    expected = whole.crop((left, top, left + size, top + size))
    assert_close(resize_to_square(image, size, "crop"), expected, 1)


def test_crop_of_a_very_long_image_is_cheap():
    assert (
        resize_to_square(Image.new("RGB", (60_000, 1)), 1024, "crop").shape[0] == 1024
    )


def test_stretch():
    image = noise(30, 70)
    expected = image.resize((64, 64), BICUBIC)
    assert_close(resize_to_square(image, 64, "stretch"), expected, 0)


# Tiles


def test_tiles_are_cut_row_by_row():
    image = noise(192, 128)  # exactly 2 rows of 3 tiles of 64
    overview, *tiles = tile_image(image, 64, 2, 3)
    assert_close(overview, resize_to_square(image, 64), 0)
    assert len(tiles) == 6
    pixels = np.asarray(image)
    for n, tile in enumerate(tiles):
        row, column = divmod(n, 3)
        expected = pixels[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
        assert_close(tile, expected, 0)


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (130, 131), (10, 10)])
def test_tiles_keep_the_aspect_ratio(shape):
    white = Image.new("RGB", shape, "white")
    for fit, full in (("pad", False), ("stretch", True), ("crop", True)):
        tiles = np.stack(tile_image(white, 64, 2, 2, fit)[1:])
        assert tiles.shape == (4, 64, 64, 3)
        share = (tiles > 128).mean()
        expected = 1.0 if full else min(shape) / max(shape)
        assert share == pytest.approx(expected, abs=0.02)


def test_overview_can_be_fitted_otherwise():
    image = noise(100, 50)
    overview = tile_image(image, 64, 1, 2, overview="stretch")[0]
    assert_close(overview, resize_to_square(image, 64, "stretch"), 0)


def test_select_grid():
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    cases = {
        (1000, 500): (672, 336),
        (500, 1000): (336, 672),
        (640, 640): (672, 672),
        (3000, 900): (1008, 336),
        (100, 100): (336, 672),  # all hold it whole: the least padding, then the first
    }
    for (width, height), expected in cases.items():
        assert select_grid(width, height, pinpoints) == expected
        assert select_grid(width, height, str(pinpoints)) == expected


@pytest.mark.parametrize(
    ("pinpoint", "squares"), [((64, 64), 1), ((128, 64), 3), ((64, 192), 4)]
)
def test_a_pinpoint_of_one_tile_is_the_image_alone(pinpoint, squares):
    image = noise(90, 60)
    options = ImageOptions("pad", 64)
    pixels = preprocess(image, options, [pinpoint])
    assert pixels.shape == (squares, 64, 64, 3)
    fit = "pad" if squares == 1 else "stretch"
    assert (pixels[0] == resize_to_square(image, 64, fit)).all()


@pytest.mark.parametrize("pinpoints", [[], "", "[[1]]", "(1x1),...,(6x6)", [[0, 0]], 7])
def test_select_grid_refuses(pinpoints):
    with pytest.raises(OptionError, match="^image_grid_pinpoints .*: give pairs"):
        select_grid(10, 10, pinpoints)


# The whole


def test_preprocess():
    image = noise(50, 20)
    pixels = preprocess(image, ImageOptions("pad", 64))
    assert pixels.shape == (1, 64, 64, 3) and pixels.dtype == np.uint8
    expected = resize_to_square(image, 64)
    assert (pixels[0] == expected).all()
    tiled = preprocess(image, ImageOptions("crop", 64, (2, 3)))
    expected = np.stack(tile_image(image, 64, 2, 3, "crop"))
    assert (tiled == expected).all()


def test_pinpoints_choose_the_tiles_and_stretch_the_overview():
    image = noise(100, 50)
    pinpoints = [[64, 128], [128, 64]]
    pixels = preprocess(image, ImageOptions("pad", 64), pinpoints)
    expected = np.stack(tile_image(image, 64, 1, 2, "pad", overview="stretch"))
    assert (pixels == expected).all()
    # Options go before; a grid of one tile is the image itself, fitted as usual.
    assert len(preprocess(image, ImageOptions("pad", 64, (2, 2)), pinpoints)) == 5
    one = preprocess(image, ImageOptions("pad", 128), pinpoints)
    assert (one[0] == resize_to_square(image, 128)).all()


def test_image_options_of_a_model():
    config = ModelConfig(image_size=512, fit="crop")
    assert ImageOptions.of(config) == ImageOptions("crop", 512, None)
    assert ImageOptions.of(config, "pad", 64, (1, 2)) == ImageOptions("pad", 64, (1, 2))
    with pytest.raises(OptionError, match="^resolution 0: must be"):
        ImageOptions.of(config, resolution=0)  # not the model's own


@pytest.mark.parametrize("resolution", [64, 256, 1024, 4096])
def test_resolutions(resolution):
    assert check_resolution(resolution) == resolution


@pytest.mark.parametrize(
    ("resolution", "hint"),
    [(0, 64), (-64, 64), (100, 128), (1000, 1024), (4160, 4096), (10**9, 4096)],
)
def test_bad_resolutions(resolution, hint):
    with pytest.raises(OptionError) as caught:
        check_resolution(resolution)
    assert str(caught.value) == (
        f"resolution {resolution}: must be a multiple of 64 from 64 to 4096; try {hint}"
    )


@pytest.mark.parametrize("resolution", ["256", 256.0, None, True])
def test_resolution_of_a_wrong_type(resolution):
    with pytest.raises(OptionError, match="give a whole number of pixels"):
        check_resolution(resolution)


def test_parse_tiles():
    assert parse_tiles("2x3") == (2, 3)
    assert parse_tiles(" 1 X 6 ") == (1, 6)
    for text in ("", "2", "2x", "x3", "2x3x4", "-1x2", "axb", "1.5x2", "2*3"):
        with pytest.raises(OptionError, match="give rows x columns, such as 2x3"):
            parse_tiles(text)
    for text in ("0x2", "7x6", "999x999"):
        with pytest.raises(OptionError, match="must be 1 to 36 tiles"):
            parse_tiles(text)


def test_unknown_fit():
    with pytest.raises(OptionError) as caught:
        resize_to_square(noise(4, 4), 64, "squeeze")
    assert str(caught.value) == "fit 'squeeze': choose one of pad, crop, stretch"


def test_content_hash():
    image = noise(10, 20)
    assert content_hash(image) == content_hash(np.asarray(image).copy())
    assert content_hash(image) != content_hash(image.rotate(180))
    flat = np.zeros((4, 6), np.uint8)
    assert content_hash(flat) != content_hash(flat.reshape(6, 4))
    assert content_hash(flat) != content_hash(flat.astype(np.float32))
    changed = ImageChops.offset(image, 1)
    assert content_hash(image) != content_hash(changed)
    assert len(content_hash(image)) == 32
