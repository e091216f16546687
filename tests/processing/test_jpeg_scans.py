"""What a JPEG without its end mark may lack: scans, coefficients, intervals."""

import io

import pytest
from PIL import Image

from fastvlm_mlx.processing import jpeg_end
from tests.support.small_images import encoded, noise


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def frame(*components: int, progressive: bool = False) -> bytes:
    body = bytes((8, 0, 8, 0, 8, len(components)))
    for component in components:
        body += bytes((component, 0x11, 0))
    return segment(0xC2 if progressive else 0xC0, body)


def scan(*components: int, first: int = 0, last: int = 63, bits: int = 0) -> bytes:
    body = bytes((len(components),))
    body += b"".join(bytes((component, 0)) for component in components)
    return segment(0xDA, body + bytes((first, last, bits))) + b"\x12\xff\x00\x34"


DC = {"first": 0, "last": 0}
WHOLE = {
    "one scan": frame(1, 2, 3) + scan(1, 2, 3),
    "a scan for each": frame(1, 2, 3) + scan(1) + scan(2) + scan(3),
    "bits of no matter": frame(1) + scan(1, bits=1),
    "restart marks": frame(1) + scan(1) + b"\xff\xd0\x55\xff\xd7\x66",
    "fill bytes": b"\xff" + frame(1) + b"\xff\xff" + scan(1),
    "marks alone": b"\xff\x01" + frame(1) + b"\xff\xd8\xff\xd3" + scan(1),
    "tables": segment(0xC4, bytes(20)) + frame(1) + segment(0xDB, bytes(9)) + scan(1),
    "other frames": segment(0xC9, frame(1)[4:]) + scan(1),
    "progressive": frame(1, progressive=True) + scan(1, **DC) + scan(1, first=1),
    "refined": frame(1, progressive=True)
    + scan(1, bits=0x01, **DC)
    + scan(1, first=1)
    + scan(1, bits=0x10, **DC),
    "no frame": b"\xff\xe0\0\2",
}
LACKING = {
    "a scan": frame(1, 2) + scan(1),
    "all scans": frame(1),
    "a progressive scan": frame(1, progressive=True) + scan(1, **DC),
    "a coefficient": frame(1, progressive=True)
    + scan(1, **DC)
    + scan(1, first=1, last=62),
    "one between": frame(1, progressive=True) + scan(1, **DC) + scan(1, first=2),
    "the last bit": frame(1, progressive=True)
    + scan(1, bits=0x01, **DC)
    + scan(1, first=1),
    "a component": frame(1, 2, progressive=True) + scan(1, 2, **DC) + scan(1, first=1),
    "markers": b"\x12\x34" + frame(1) + scan(1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name):
    assert jpeg_end._has_all_scans(b"\xff\xd8" + WHOLE[name])


@pytest.mark.parametrize("name", LACKING)
def test_lacking(name):
    assert not jpeg_end._has_all_scans(b"\xff\xd8" + LACKING[name])


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xCD, 0xCF])
def test_frames(marker):
    data = b"\xff\xd8" + segment(marker, frame(1)[4:])
    assert not jpeg_end._has_all_scans(data)


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC, 0xD9, 0xBF, 0xE0])
def test_segments_that_are_no_frames(marker):
    assert jpeg_end._has_all_scans(b"\xff\xd8" + segment(marker, frame(1)[4:]))


@pytest.mark.parametrize("marker", [0xC2, 0xC6, 0xCA, 0xCE])
def test_progressive_frames_need_all_64(marker):
    data = b"\xff\xd8" + segment(marker, frame(1)[4:]) + scan(1, **DC)
    assert not jpeg_end._has_all_scans(data)
    assert jpeg_end._has_all_scans(data + scan(1, first=1))


def test_bytes_that_might_follow():
    assert jpeg_end._tails(b"\xff\xda\x12") == jpeg_end._NOISE
    assert len({*jpeg_end._NOISE}) == 6
    assert {len(noise) for noise in jpeg_end._NOISE} == {4096}
    for marks, following in (
        (b"", (0, 1, 2, 3, 4, 5, 6, 7)),
        (b"\xff\xd0", (1, 2, 3, 4, 5, 6, 7, 0)),
        (b"\xff\xd5\x01\xff\xd6\x02", (7, 0, 1, 2, 3, 4, 5, 6)),
        (b"\xff\xd7\x01\xff\xd0\x02\xff\xd1", (2, 3, 4, 5, 6, 7, 0, 1)),
    ):
        tails = jpeg_end._tails(b"\xff\xdd\0\4\0\1" + marks)
        assert tails[:6] == jpeg_end._NOISE and len(tails) == 11
        for noise_, tail in zip(jpeg_end._NOISE[1:], tails[6:], strict=True):
            marked = b"".join(bytes((0xFF, 0xD0 + n)) + noise_ for n in following)
            assert tail == noise_ + marked


@pytest.mark.parametrize("strip", [1, 30, 1 << 20])
def test_images_are_compared_to_the_last_row(strip, monkeypatch):
    monkeypatch.setattr(jpeg_end, "_STRIP_PIXELS", strip)
    one = Image.new("RGB", (10, 7))
    assert jpeg_end._are_equal(one, one.copy())
    for place in ((0, 0), (9, 6), (0, 6), (5, 3)):
        other = one.copy()
        other.putpixel(place, (0, 0, 1))
        assert not jpeg_end._are_equal(one, other)


def test_the_largest_file_that_is_looked_at(monkeypatch):
    data = encoded(noise(16, 16), "JPEG")[:-2]
    monkeypatch.setattr(jpeg_end, "_MAX_BYTES", len(data))
    found = jpeg_end.decode_without_end(io.BytesIO(data))
    assert found is not None and found.size == (16, 16)
    monkeypatch.setattr(jpeg_end, "_MAX_BYTES", len(data) - 1)
    assert jpeg_end.decode_without_end(io.BytesIO(data)) is None


def test_what_is_no_jpeg_is_none():
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\2", b"nothing"):
        assert jpeg_end.decode_without_end(io.BytesIO(data)) is None
