"""Opens a JPEG that lacks nothing but its end mark (EOI).

Pillow calls it truncated, as it does a file that lacks half of its pixels. Here the
file is decoded with different bytes after its last one: if the pixels are the same
whatever follows, none is missing.
"""

import io
import re
from typing import BinaryIO

from PIL import Image

_MAX_BYTES = 256 << 20
_STRIP_PIXELS = 1 << 20
_END = b"\xff\xd9"
# Several, as the first bits of one may happen to mean what is missing.
_NOISE = [
    bytes.fromhex(digits) * 1024
    for digits in (
        "00000000",
        "fefdfbf7",
        "55a31c66",
        "aa5c9b39",
        "c36ad217",
        "34e18bdc",
    )
]
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ALONE = (0x01, 0xD8, *range(0xD0, 0xD8))  # markers without a length


def decode_without_end(file: BinaryIO) -> Image.Image | None:
    """The image of the JPEG `file`, or None if more than its end mark is missing."""
    file.seek(0)
    data = file.read(_MAX_BYTES + 1).rstrip(b"\xff")
    if len(data) > _MAX_BYTES or not _has_all_scans(data):
        return None
    try:
        image = _decode(data + _END)
        for tail in _tails(data):
            if not _are_equal(image, _decode(data + tail + _END)):
                return None
    # Whatever Pillow raises: the file lacks more than that.
    except Exception:
        return None
    return image


def _decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.load()
    return image


def _tails(data: bytes) -> list[bytes]:
    """What might follow `data`: more of the scan, or its next interval."""
    if b"\xff\xdd" not in data:  # no restart interval
        return _NOISE
    marks = [data.rfind(bytes((0xFF, 0xD0 + n))) for n in range(8)]
    last = marks.index(max(marks)) if max(marks) >= 0 else -1
    following = [bytes((0xFF, 0xD0 + (last + n) % 8)) for n in range(1, 9)]
    return _NOISE + [noise.join([b"", *following, b""]) for noise in _NOISE[1:]]


def _are_equal(one: Image.Image, other: Image.Image) -> bool:
    width, height = one.size
    step = max(1, _STRIP_PIXELS // width)
    boxes = ((0, y, width, min(y + step, height)) for y in range(0, height, step))
    return all(one.crop(box).tobytes() == other.crop(box).tobytes() for box in boxes)


def _has_all_scans(data: bytes) -> bool:
    """Whether each component has all of its coefficients, to the last bit."""
    needed: set[tuple[int, int]] = set()  # component, coefficient
    place, progressive = 2, False
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return False
        marker = data[place + 1]
        if marker == 0xFF or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + length]
        place += 2 + length
        if marker in _FRAMES and len(body) >= 6:
            progressive = marker in _PROGRESSIVE
            for component in body[6::3]:
                needed |= {(component, n) for n in range(64 if progressive else 1)}
        elif marker == 0xDA and len(body) >= 6:  # of one component
            count = body[0]
            first, last, bits = (0, 0, 0) if not progressive else body[-3:]
            if bits & 0x0F == 0:
                for component in body[1 : 1 + 2 * count : 2]:
                    needed -= {(component, n) for n in range(first, last + 1)}
            following = _NEXT_MARKER.search(data, place)
            if following is None:
                break
            place = following.start()
    return not needed
