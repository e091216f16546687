"""Images of every kind, opened upright, opaque and with eight bits."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from fastvlm_mlx.processing.image_file import open_image, size_of
from tests.support.image_bytes import png_of
from tests.support.small_images import assert_close, encoded, noise


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "PCX"])
def test_lossless_formats_open_exactly(format, tmp_path):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    image = noise(40, 30)
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(image, format, **options)
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        opened = open_image(source)
        assert opened.mode == "RGB"
        assert opened.tobytes() == image.tobytes()
    # The file is closed and the image still works.
    path.unlink()
    assert opened.resize((8, 8)).size == (8, 8)
    assert opened.copy().tobytes() == image.tobytes()


def test_sources(tmp_path, monkeypatch):
    image = noise(8, 6)
    data = encoded(image, "PNG")
    (tmp_path / "a b.jpg").write_bytes(data)  # the wrong ending is no matter
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    for source in (image, data, tmp_path / "a b.jpg", "~/a b.jpg", "-"):
        assert open_image(source).tobytes() == image.tobytes()


def test_pipe_as_a_path():
    data = encoded(noise(8, 6), "PNG")
    code = (
        "import sys; from fastvlm_mlx.processing.image_file import open_image;"
        "print(open_image('/dev/stdin').size)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert done.stdout.decode().strip() == "(8, 6)", done.stderr.decode()


def test_damaged_exif_is_ignored():
    jpeg = encoded(noise(16, 16), "JPEG")
    block = b"Exif\0\0" + b"\xff" * 40
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    assert open_image(jpeg[:2] + segment + jpeg[2:]).size == (16, 16)


def test_alpha_is_flattened_onto_white():
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 100, 0, 255), (200, 100, 0, 0), (0, 0, 0, 128)])
    expected = [[200, 100, 0], [255, 255, 255], [127, 127, 127]]
    for image in (rgba, open_image(rgba)):
        assert np.asarray(open_image(image))[0].tolist() == expected
    la = Image.new("LA", (2, 1))
    la.putdata([(50, 255), (50, 0)])
    for image in (la, la.convert("PA"), rgba.convert("RGBa"), la.convert("La")):
        assert open_image(image).mode == "RGB"
    assert np.asarray(open_image(la))[0].tolist() == [[50] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_transparent_colour_is_white(mode):
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 1)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    data = encoded(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert open_image(data).getpixel((0, 0)) == (255, 255, 255)
    opaque = {"P": (40, 50, 60), "L": (1, 1, 1), "RGB": (9, 9, 9), "1": (255,) * 3}
    assert open_image(data).getpixel((1, 0)) == opaque[mode]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes(mode):
    grey = Image.linear_gradient("L").resize((32, 32))
    base = grey if mode in ("1", "L") else Image.merge("RGB", (grey, grey, grey))
    if mode == "LAB":
        image = Image.merge("LAB", (grey, Image.new("L", (32, 32), 128)) * 1 + (grey,))
    else:
        image = base.convert(mode)
    opened = open_image(image)
    assert opened.mode == "RGB" and opened.size == (32, 32)
    if mode in ("L", "YCbCr", "CMYK", "HSV"):
        assert_close(opened, base.convert("RGB"), 2)


def test_cmyk_jpeg():
    image = Image.new("RGB", (16, 16), (200, 30, 60))
    opened = open_image(encoded(image.convert("CMYK"), "JPEG", quality=95))
    assert_close(opened, image, 6)


def test_sixteen_bits():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for format in ("PNG", "TIFF", "PPM"):
        opened = open_image(encoded(Image.fromarray(ramp), format))
        assert_close(np.asarray(opened)[..., 0], expected, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([0.0, 500_000.0, 1_000_000.0], [0, 128, 255]),
        ([3.0, 3.0, 3.0], [3, 3, 3]),
    ],
)
def test_floats_are_scaled(values, expected):
    opened = open_image(Image.fromarray(np.array([values], np.float32)))
    assert_close(np.asarray(opened)[0, :, 0], expected, 1)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame(format):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert_close(open_image(data), frames[0], 2)


PALETTE = [10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_a_palette_with_alpha_values():
    image = Image.new("P", (3, 1))
    image.putpalette(PALETTE)
    image.putdata([0, 1, 2])
    data = encoded(image, "PNG", transparency=bytes((0, 255, 128)))
    wanted = [[255, 255, 255], [40, 50, 60], [162, 167, 172]]
    assert_close(np.asarray(open_image(data))[0], wanted, 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_either_byte_order(order):
    values = np.array([[0, 1000, 32896, 65535]], order + "u2")
    image = Image.frombytes(
        "I;16B" if order == ">" else "I;16", (4, 1), values.tobytes()
    )
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, 4, 128, 255]


def test_sixteen_bits_with_alpha():
    rows = [np.array([[65535, 65535, 32896, 0, 0, 32896]], ">u2").tobytes()]
    opened = np.asarray(open_image(png_of(16, 4, rows)))
    assert opened[0, :, 0].tolist() == [255, 255, 127]


@pytest.mark.parametrize(
    ("maxval", "values", "wanted"),
    [
        (65535, [0, 255, 32896, 65535], [0, 1, 128, 255]),
        (4095, [0, 16, 2056, 4095], [0, 1, 128, 255]),
        (1000, [0, 1, 502, 1000], [0, 0, 128, 255]),
        (255, [0, 1, 128, 255], [0, 1, 128, 255]),
        (100, [0, 1, 50, 100], [0, 3, 128, 255]),
    ],
)
def test_portable_greymaps(maxval, values, wanted):
    body = np.array(values, ">u2" if maxval > 255 else "u1").tobytes()
    for data in (
        b"P5 4 1 %d\n" % maxval + body,
        b"P2 4 1 %d\n" % maxval + b" ".join(b"%d" % value for value in values),
    ):
        assert_close(np.asarray(open_image(data))[0, :, 0], wanted, 1)


def test_cmyk_without_adobe_s_marker():
    """CMYK in a JPEG is inverted, as Adobe stores it, with the marker or without."""
    image = Image.new("RGB", (16, 16), (200, 30, 60))
    data = encoded(image.convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    assert_close(open_image(data[:at] + data[at + 16 :]), image, 6)


def test_several_images_in_one_file():
    first, second = noise(64, 48, 1), noise(32, 24, 2)
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert open_image(data).size == (64, 48)
    assert size_of(data, ["JPEG"]) == (64, 48)
    icon = encoded(first.resize((64, 64)), "ICO", sizes=[(16, 16), (64, 64)])
    assert open_image(icon).size == (64, 64)


@pytest.mark.parametrize("format", ["GIF", "PNG"])
def test_the_first_frame_of_a_transparent_animation(format):
    frames = [Image.new("RGBA", (9, 9)) for _ in range(2)]
    frames[0].paste((200, 0, 0, 255), (0, 0, 4, 9))
    frames[1].paste((0, 0, 200, 255), (0, 0, 9, 9))
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    opened = open_image(data)
    assert opened.getpixel((0, 0)) == (200, 0, 0)
    assert opened.getpixel((8, 8)) == (255, 255, 255)


def test_one_bit():
    for form in ("PNG", "TIFF", "BMP", "PPM"):
        image = Image.new("1", (9, 3))
        image.putpixel((8, 2), 1)
        opened = np.asarray(open_image(encoded(image, form)))
        assert opened[2, 8].tolist() == [255] * 3 and opened.sum() == 765
