"""How pixels become upright RGB: orientation, scales of grey, memory."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.processing import image_pixels
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.tiff_kind import Samples
from tests.support.small_images import encoded

# What a camera stores as [[1, 2, 3], [4, 5, 6]], upright; from the EXIF standard's
# words, such as 6: the first row is the right-hand side, the first column the top.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}
STORED = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("strip", [1, 3, 4, 1 << 20])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(orientation, mode, strip, monkeypatch):
    monkeypatch.setattr(image_pixels, "_STRIP_PIXELS", strip)
    stored = Image.fromarray(STORED).convert(mode)
    data = encoded(stored, "PNG", exif=exif(orientation))
    opened = open_image(data)
    wanted = np.array(UPRIGHT[orientation]) * 40
    for channel in range(3):
        assert np.asarray(opened)[..., channel].tolist() == wanted.tolist()
    # Opening what was opened turns nothing twice.
    assert open_image(opened).tobytes() == opened.tobytes()
    # An image of the caller's is turned too, and left as it was.
    theirs = Image.open(io.BytesIO(data))
    assert open_image(theirs).tobytes() == opened.tobytes()
    assert theirs.size == (3, 2) and theirs.getexif()[0x0112] == orientation


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_other_formats(orientation, format):
    stored = Image.fromarray(np.kron(STORED, np.ones((16, 16), np.uint8)))
    data = encoded(stored.convert("RGB"), format, exif=exif(orientation), quality=95)
    grey = np.asarray(open_image(data).convert("L"))[8::16, 8::16]
    assert np.rint(grey / 40).tolist() == UPRIGHT[orientation]


@pytest.mark.parametrize("orientation", [0, 9, 257, -1])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    image = Image.fromarray(STORED)
    image.getexif()[0x0112] = orientation
    assert np.asarray(open_image(image))[..., 0].tolist() == STORED.tolist()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_the_lowest_value_may_be_zero_or_not(mode):
    """Values above zero keep their scale: only negative ones are shifted."""
    dtype = np.int32 if mode == "I" else np.float32
    for values, wanted in (
        ([0, 100, 200], [0, 100, 200]),
        ([50, 100, 200], [50, 100, 200]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([1000, 32896, 65535], [4, 128, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([0, 0, 0], [0, 0, 0]),
        ([0, 500_000, 1_000_000], [0, 128, 255]),
    ):
        image = Image.fromarray(np.array([values], dtype))
        assert image.mode == mode
        assert np.asarray(open_image(image))[0, :, 0].tolist() == wanted


def test_extreme_floats_are_scaled():
    for values, wanted in (
        ([-3e38, 0, 3e38], [0, 128, 255]),
        ([0, 1e-40, 1], [0, 0, 255]),
        ([float("inf"), 1, float("-inf")], [0, 255, 0]),
    ):
        image = Image.fromarray(np.array([values], np.float32))
        assert np.asarray(open_image(image))[0, :, 0].tolist() == wanted


def test_a_dark_image_of_16_bits_stays_dark():
    dark = np.array([[0, 128, 255]], np.uint16)
    for format in ("PNG", "PPM", "TIFF"):
        opened = open_image(encoded(Image.fromarray(dark), format))
        assert np.asarray(opened)[0, :, 0].tolist() == [0, 0, 1], format


SIDE = 3000
MODES = {
    "I;16": lambda: Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)),
    "I": lambda: Image.new("I", (SIDE, SIDE), 9),
    "F": lambda: Image.new("F", (SIDE, SIDE), 0.5),
    **{
        mode: lambda mode=mode: Image.new(mode, (SIDE, SIDE))
        for mode in ("RGBA", "LA", "P", "CMYK", "1", "L", "RGB")
    },
}


# Opens each file in a process of its own, all forks of one, and prints the bytes that
# took. A fork counts its own peak; a new program would begin with that of its parent.
OPEN_EACH = """if True:
    import os, resource, sys
    from fastvlm_mlx.processing.image_file import open_image
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for path in sys.argv[2:]:
        if not os.fork():
            open_image(sys.argv[1])
            before = peak()
            open_image(path)
            print(peak() - before, flush=True)
            os._exit(0)
        os.wait()
"""
CONSTANT = 4 << 20  # code and buffers that do not grow with the image


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in other units")
def test_memory_is_at_most_three_times_the_decoded_image(tmp_path):
    small = tmp_path / "small.png"
    Image.new("RGBA", (600, 600)).save(small)
    paths = [tmp_path / f"{number}" for number in range(len(MODES))]
    for path, (mode, make) in zip(paths, MODES.items(), strict=True):
        format = "TIFF" if mode in ("I", "F", "CMYK") else "PNG"
        turned = {"exif": exif(6), "compress_level": 1}
        options: dict = turned if format == "PNG" else {}
        if mode == "P":
            options["transparency"] = 0
        make().save(path, format, **options)
    done = subprocess.run(
        [sys.executable, "-c", OPEN_EACH, small, *paths], capture_output=True, text=True
    )
    taken = [int(line) - CONSTANT for line in done.stdout.split()]
    times = {
        mode: each / (SIDE * SIDE * 3) for mode, each in zip(MODES, taken, strict=True)
    }
    assert all(0.5 < each < 3 for each in times.values()), times


@pytest.mark.parametrize(
    ("low", "wanted"), [(-16385, (-32768, 32767)), (-16384, (-16384, 7))]
)
def test_signed_integers_that_use_half_of_the_range(low: int, wanted):
    image = Image.fromarray(np.array([[low, 7]], np.int32))
    assert image_pixels._range(image, Samples(16, signed=True)) == wanted


@pytest.mark.parametrize(
    ("bits", "high", "wanted"),
    [(12, 4000, 4095), (12, 200, 255), (24, 70_000, 2**24 - 1), (32, 70_000, 70_000)],
)
def test_unsigned_integers_keep_the_scale_of_their_type(
    bits: int, high: int, wanted: int
):
    image = Image.fromarray(np.array([[0, high]], np.int32))
    assert image_pixels._range(image, Samples(bits, signed=False)) == (0, wanted)
