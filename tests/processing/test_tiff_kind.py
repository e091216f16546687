"""TIFFs of every kind: decoded rightly, or refused by the name of their kind."""

import io
import itertools

import numpy as np
import PIL
import pytest
from PIL import Image

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.image_file import open_image, size_of
from tests.support.image_bytes import tiff
from tests.support.small_images import noise, refused

WIDTH, HEIGHT = 7, 5
DTYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8"]
GREY = (
    np.random.default_rng(0)
    .permutation(np.linspace(0, 255, WIDTH * HEIGHT).round())
    .reshape(HEIGHT, WIDTH)
)
COLOUR = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(float)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """0..255 in the whole range of a type, or 0..1 in floats."""
    if dtype[1] == "f":
        return (values / 255).astype(dtype)
    limits = np.iinfo(dtype)
    scale = (int(limits.max) - int(limits.min)) // 255
    whole = [int(limits.min) + int(value) * scale for value in values.ravel()]
    return np.array(whole, dtype).reshape(values.shape)


def decoded(data: bytes) -> np.ndarray | None:
    """The pixels, or None after a refusal that names the kind."""
    try:
        return np.asarray(open_image(data)).astype(int)
    except ImageError as error:
        message = str(error)
        print(message)
        assert "a TIFF of" in message and "save it again" in message
        assert "damaged" not in message and message.isprintable()
        return None


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_is_right_or_refused(dtype, order, planar, compression):
    options = {"planar": planar, "compression": compression}
    kinds = itertools.product((0, 1), (1, 2))
    for photometric, samples in kinds:
        grey = GREY if photometric else 255 - GREY
        pixels, wanted = stored(grey, order + dtype), GREY
        if samples == 2:
            alpha = stored(COLOUR[..., 3], order + dtype)
            pixels = np.stack((pixels, alpha), -1)
            wanted = blended(GREY[..., None], COLOUR[..., 3:])[..., 0]
        found = decoded(tiff(pixels, photometric, **options))
        if found is not None:
            assert np.abs(found - wanted[..., None]).max() <= 1, (photometric, samples)
    for samples in (3, 4):
        pixels = stored(COLOUR[..., :samples], order + dtype)
        wanted = COLOUR[..., :3]
        if samples == 4:
            wanted = blended(wanted, COLOUR[..., 3:])
        found = decoded(tiff(pixels, 2, **options))
        if found is not None:
            assert np.abs(found - wanted).max() <= 2, samples


def blended(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return values * alpha / 255 + 255 - alpha


@pytest.mark.parametrize(
    ("dtype", "samples", "planar", "compression"),
    [
        *(("u1", n, planar, 8) for n in (1, 3, 4) for planar in (1, 2)),
        *(("u1", n, planar, 1) for n in (1, 3, 4) for planar in (1, 2)),
        *(("u2", n, planar, 8) for n in (1, 3, 4) for planar in (1, 2)),
        *(("u2", n, planar, 1) for n in (1, 3, 4) for planar in (1, 2)),
        *(("i2", 1, planar, 8) for planar in (1, 2)),
        *(("i4", 1, planar, 1) for planar in (1, 2)),
        *(("f4", 1, planar, 8) for planar in (1, 2)),
        *(("f4", 1, planar, 1) for planar in (1, 2)),
        ("i1", 1, 1, 1),
        ("u1", 2, 1, 1),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_kinds_that_are_opened(dtype, order, samples, planar, compression):
    """The kinds that Pillow knows are opened, not refused."""
    values = GREY if samples == 1 else COLOUR[..., :samples]
    photometric = 1 if samples < 3 else 2
    pixels = stored(values, order + dtype)
    data = tiff(pixels, photometric, planar=planar, compression=compression)
    assert decoded(data) is not None


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        ([0, 50, 127], "i1", [0, 100, 255]),
        ([-128, 0, 127], "i1", [0, 128, 255]),
        ([0, 100, 255], "i2", [0, 100, 255]),
        ([0, 16384, 32767], "i2", [0, 128, 255]),
        ([-32768, 0, 32767], "i2", [0, 128, 255]),
        ([-1000, 20, 1000], "i2", [0, 130, 255]),
        ([0, 100, 255], "i4", [0, 100, 255]),
        ([0, 32896, 65535], "i4", [0, 128, 255]),
        ([0, 1 << 30, (1 << 31) - 1], "i4", [0, 128, 255]),
        ([0, 502_000, 1_000_000], "i4", [0, 128, 255]),
        ([-(1 << 31), 0, (1 << 31) - 1], "i4", [0, 128, 255]),
        ([0, 100, 255], "u4", [0, 100, 255]),
        ([0, 1 << 31, (1 << 32) - 1], "u4", [0, 128, 255]),
        ([0, 128, 255], "u2", [0, 0, 1]),
    ],
)
def test_the_scale_of_integers(values, dtype, wanted):
    found = decoded(tiff(np.array([values], "<" + dtype), 1))
    assert found is not None and found[0, :, 0].tolist() == wanted


def test_twelve_bits_are_a_scale_of_their_own():
    data = tiff(
        np.frombuffer(bytes.fromhex("000fff"), "u1").reshape(1, 3),
        1,
        tags={256: ("I", [2]), 258: ("H", [12])},
    )
    found = decoded(data)
    assert found is not None and found[0, :, 0].tolist() == [0, 255]


REFUSED = {
    "a TIFF of 32-bit floats, 3 per pixel, RGB": tiff(np.zeros((2, 2, 3), "<f4"), 2),
    "a TIFF of 16-bit floats, 1 per pixel, grey": tiff(np.zeros((2, 2), ">f2"), 1),
    "a TIFF of 64-bit floats, 1 per pixel, white is zero": tiff(
        np.zeros((2, 2), ">f8"), 0
    ),
    "a TIFF of 16-bit signed integers, 3 per pixel, RGB, in separate planes": tiff(
        np.zeros((2, 2, 3), "<i2"), 2, planar=2
    ),
    "a TIFF of 8-bit unsigned integers, 3 per pixel, CIELab, in separate planes": tiff(
        np.zeros((2, 2, 3), "u1"), 8, planar=2
    ),
    "a TIFF of 8-bit unsigned integers, 1 per pixel, grey, of compression 34887": tiff(
        np.zeros((2, 2), "u1"), 1, compression=34887
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_kind_is_named(kind):
    data = REFUSED[kind]
    fault = refused(data, f"image of {len(data)} bytes")
    way_out = "which is not opened; save it again as an 8-bit TIFF or as PNG"
    assert fault == f"{kind}, {way_out}"


def test_a_server_names_the_kind_too():
    data = tiff(np.zeros((2, 2, 3), "<f4"), 2)
    with pytest.raises(ImageError, match="a TIFF of 32-bit floats"):
        size_of(data, ["TIFF"])


@pytest.mark.parametrize(
    "data",
    [
        tiff(np.zeros((2, 2), "<u2"), 32803),
        tiff(np.zeros((2, 2, 3), "<u2"), 34892),
        tiff(np.zeros((2, 2, 3), "u1"), 2, tags={50706: ("B", [1, 4, 0, 0])}),
        tiff(np.zeros((2, 2, 3), "u1"), 2, tags={254: ("I", [1]), 330: ("I", [8])}),
    ],
)
def test_a_camera_s_raw_file_is_not_its_preview(data):
    assert refused(data, f"image of {len(data)} bytes").startswith("a camera's RAW")


@pytest.mark.parametrize(
    "tags",
    [{254: ("I", [1])}, {330: ("I", [8])}, {254: ("I", [2]), 330: ("I", [8])}],
)
def test_a_page_or_a_preview_alone_is_opened(tags):
    found = decoded(tiff(np.full((2, 2, 3), 9, "u1"), 2, tags=tags))
    assert found is not None and found.max() == found.min() == 9


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), None])
@pytest.mark.parametrize("compression", [1, 8])
def test_brightness_and_colour(subsampling, compression):
    image = Image.new("RGB", (16, 16), (200, 60, 30))
    image.paste((20, 90, 220), (8, 0, 16, 16))
    pixels = np.asarray(image.convert("YCbCr"))
    tags = {532: ("I", [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1])}
    if subsampling is not None:
        tags = {530: ("H", list(subsampling))}
    if subsampling == (2, 2):
        blocks = pixels.reshape(8, 2, 8, 2, 3).transpose(0, 2, 1, 3, 4)
        packed = np.concatenate(
            (blocks[..., 0].reshape(8, 8, 4), blocks[:, :, 0, 0, 1:]), -1
        )
        pixels = packed.reshape(16, 24)
        tags |= {256: ("I", [16]), 258: ("H", [8] * 3), 277: ("H", [3])}
        tags |= {339: ("H", [1] * 3)}
    if subsampling is None:
        tags = {}
    # A file without the tag should be subsampled; this one is not.
    if subsampling is None and int(PIL.__version__[:2]) < 13:
        return
    found = decoded(tiff(pixels, 6, compression=compression, tags=tags))
    if subsampling is None and compression == 8:
        return
    assert found is not None
    assert np.abs(found - np.asarray(image).astype(int)).max() <= 8


def test_a_damaged_header_is_called_so():
    data = b"II*\0" + (99).to_bytes(4, "little") + bytes(60)
    fault = refused(data, f"image of {len(data)} bytes")
    assert fault == "the header is damaged; save it again as PNG or JPEG"


def test_a_palette_of_8_bit_values():
    """Old writers forget that a TIFF's palette has 16 bits."""
    for scale in (1, 257):
        values = [0] * 768
        values[1], values[257], values[513] = 200 * scale, 100 * scale, 50 * scale
        data = tiff(np.ones((2, 2), "u1"), 3, tags={320: ("H", values)})
        found = decoded(data)
        assert found is not None and found[0, 0].tolist() == [200, 100, 50]


def test_images_of_the_caller_that_are_tiffs():
    image = noise(6, 4)
    pixels = np.asarray(image).astype("<u2") * 257
    theirs = Image.open(io.BytesIO(tiff(pixels, 2, planar=2)))
    assert open_image(theirs).tobytes() == image.tobytes()
