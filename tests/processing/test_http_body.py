"""Bodies are unpacked up to the limit and not one byte further."""

import gzip
import types
import zlib

import pytest

from fastvlm_mlx.processing import http_body
from fastvlm_mlx.processing.http_body import DamagedBody, TooMuch, UnknownCoding, unpack
from tests.support.small_images import encoded, noise

BODY = bytes(range(256)) * 4


class Decompressor:
    """Python 3.14's zstd, with zlib inside."""

    def __init__(self):
        self._inner = zlib.decompressobj()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except zlib.error:
            raise KeyError from None

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


@pytest.fixture
def zstd(monkeypatch):
    module = types.SimpleNamespace(ZstdDecompressor=Decompressor, ZstdError=KeyError)
    monkeypatch.setattr(http_body.importlib, "import_module", lambda name: module)


def twice(pack):
    return lambda data: pack(data[:100]) + pack(data[100:])


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS = {
    "gzip": [gzip.compress, twice(gzip.compress)],
    "deflate": [zlib.compress, raw_deflate],
    "zstd": [zlib.compress, twice(zlib.compress)],
}


@pytest.mark.parametrize(
    ("coding", "pack"), [(name, each) for name in PACKERS for each in PACKERS[name]]
)
def test_the_limit_is_exact(coding, pack, zstd):
    packed = pack(BODY)
    assert unpack(packed, coding, len(BODY)) == BODY
    assert unpack(packed, coding, len(BODY) + 1) == BODY
    with pytest.raises(TooMuch):
        unpack(packed, coding, len(BODY) - 1)
    with pytest.raises(DamagedBody, match=f"damaged {coding} data"):
        unpack(packed[:-1], coding, len(BODY))


def test_zstd_that_is_damaged(zstd):
    with pytest.raises(DamagedBody, match="damaged zstd data"):
        unpack(b"junk", "zstd", 99)


def test_zstd_where_python_has_none(monkeypatch):
    def import_module(name):
        assert name == "compression.zstd"
        raise ImportError

    monkeypatch.setattr(http_body.importlib, "import_module", import_module)
    with pytest.raises(UnknownCoding, match="packed as zstd"):
        unpack(b"x", "zstd", 99)


def test_codings_are_undone_from_the_last():
    packed = gzip.compress(zlib.compress(BODY))
    assert unpack(packed, "deflate, gzip", 9999) == BODY
    with pytest.raises(DamagedBody):
        unpack(packed, "gzip, deflate", 9999)


def test_how_many_codings_are_undone():
    packed = BODY
    for _ in range(4):
        packed = gzip.compress(packed)
    assert unpack(packed, "gzip,gzip , GZIP,x-gzip, identity", 9999) == BODY
    with pytest.raises(UnknownCoding):
        unpack(gzip.compress(packed), ",".join(["gzip"] * 5), 9999)
    with pytest.raises(UnknownCoding) as caught:
        unpack(BODY, "br" * 99, 9999)
    assert len(caught.value.name) == 80


def test_bytes_after_gzip_are_no_matter():
    assert unpack(gzip.compress(BODY) + bytes(99), "gzip", 9999) == BODY
    assert unpack(BODY, "gzip", 9999) == BODY  # a header that does not fit


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "image/png", "x-unknown"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_an_image_that_is_not_packed_needs_no_unpacking(coding: str, form: str):
    image = encoded(noise(8, 8), form)
    assert unpack(image, coding, len(image)) == image
    assert unpack(gzip.compress(image), f"{coding}, gzip", len(image)) == image
