"""libtiff prints nothing while an image is opened, and as before afterwards."""

import ctypes
import io
import struct

import pytest
from PIL import Image, features

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import libtiff_messages
from fastvlm_mlx.processing.image_file import open_image
from tests.support.small_images import encoded, noise

pytestmark = pytest.mark.skipif(
    not features.check("libtiff"), reason="Pillow without libtiff"
)


@pytest.fixture
def damaged() -> bytes:
    """A TIFF whose packed pixels end early."""
    data = bytearray(encoded(noise(64, 64), "TIFF", compression="tiff_lzw"))
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    entries = range(place + 2, place + 2 + 12 * count, 12)
    (sizes,) = (e for e in entries if struct.unpack_from("<H", data, e)[0] == 279)
    struct.pack_into("<I", data, sizes + 8, 500)
    return bytes(data)


def printed(data: bytes, capfd: pytest.CaptureFixture[str]) -> str:
    """What Pillow lets libtiff print."""
    with pytest.raises(OSError):
        Image.open(io.BytesIO(data)).load()
    return capfd.readouterr().err


def test_a_damaged_file_is_one_line(damaged: bytes, capfd: pytest.CaptureFixture[str]):
    if not printed(damaged, capfd):
        pytest.skip("this Pillow prints nothing itself")
    with pytest.raises(ImageError, match="damaged or unsupported"):
        open_image(damaged)
    assert capfd.readouterr() == ("", "")
    assert "LZWDecode" in printed(damaged, capfd)  # others may want to see it


def test_a_pillow_that_hides_its_libtiff(monkeypatch: pytest.MonkeyPatch):
    libtiff_messages._set_error_handler.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    try:
        with libtiff_messages.quiet_libtiff():
            assert libtiff_messages._set_error_handler() is None
    finally:
        libtiff_messages._set_error_handler.cache_clear()
