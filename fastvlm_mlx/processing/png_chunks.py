"""Shows Pillow a PNG file without the chunks that its pixels do not need.

Pillow refuses the whole file for a text or a colour profile of more than a megabyte,
and for a wrong checksum of one. Colour profiles and texts are not used here, so they
are skipped unread; the pixels are read from the file itself.
"""

import bisect
import io
import struct
import zlib
from typing import BinaryIO, cast

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20  # the bit of a chunk's first letter
_MAX_KEPT = 1 << 19  # bytes of an ancillary chunk, packed and unpacked
# Texts that hold the orientation: of ImageMagick, of Adobe.
_ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")

# Bytes of the result: these, or (offset, length) in the file.
_Part = bytes | tuple[int, int]


def pixels_only(file: BinaryIO) -> BinaryIO:
    """The PNG `file` with its critical chunks, transparency and orientation only.

    From the first bytes that are no chunk on, everything is passed as it is: judging
    what is damaged stays Pillow's. `file` must stay open as long as the result.
    """
    parts: list[_Part] = [SIGNATURE]
    size = file.seek(0, io.SEEK_END)
    place, header = len(SIGNATURE), b""
    while place < size:
        file.seek(place)
        start = file.read(8)
        length, kind = struct.unpack(">I4s", start) if len(start) == 8 else (0, b"    ")
        end = place + 12 + length
        if not kind.isalpha() or end > size:
            parts.append((place, size - place))
            break
        if not kind[0] & _ANCILLARY:
            if kind == b"IHDR":
                header = file.read(min(length, 13))
            _append_range(parts, place, end - place)
        elif kept := _ancillary(file, kind, length, header):
            parts.append(kept)
        place = end
        if kind == b"IEND":
            break
    return cast(BinaryIO, io.BufferedReader(_Parts(file, parts), 1 << 16))


def _append_range(parts: list[_Part], place: int, length: int):
    last = parts[-1]
    if isinstance(last, tuple) and sum(last) == place:
        parts[-1] = last[0], last[1] + length
    else:
        parts.append((place, length))


def _ancillary(file: BinaryIO, kind: bytes, length: int, header: bytes) -> bytes:
    """The chunk if it is needed and sound, else nothing."""
    if kind not in (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt") or length > _MAX_KEPT:
        return b""
    body, crc = file.read(length), file.read(4)
    if struct.pack(">I", zlib.crc32(kind + body)) != crc:
        return b""
    if kind == b"tRNS":
        if not (body := _transparency(body, header)):
            return b""
    elif kind != b"eXIf" and not _is_small_orientation(kind, body):
        return b""
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def _transparency(body: bytes, header: bytes) -> bytes:
    """The transparent values in the scale of Pillow's pixels, which is 8 bits.

    Only grey values of 16 bits stay as they are. Nothing if `body` makes no sense.
    """
    depth, colour = header[8:10] if len(header) >= 10 else (8, 6)
    if colour == 3:
        return body[:256]
    if len(body) < {0: 2, 2: 6}.get(colour, len(body) + 1):
        return b""
    if colour == 0 and depth < 8:
        value = body[1] & (2**depth - 1)
        return bytes((0, value * 255 // (2**depth - 1)))
    if colour == 2 and depth == 16:
        return bytes((0, body[0], 0, body[2], 0, body[4]))
    return body


def _is_small_orientation(kind: bytes, body: bytes) -> bool:
    if not body.startswith(_ORIENTED):
        return False
    keyword, _, rest = body.partition(b"\0")
    if kind == b"zTXt":
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        return True
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, _MAX_KEPT)
    except zlib.error:
        return False
    return unpacker.eof


class _Parts(io.RawIOBase):
    """Bytes and ranges of a file, one after the other, as one file."""

    def __init__(self, file: BinaryIO, parts: list[_Part]):
        self._file = file
        self._parts = parts
        self._starts, end = [], 0
        for part in parts:
            self._starts.append(end)
            end += len(part) if isinstance(part, bytes) else part[1]
        self._size = end
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = max(0, base[whence] + offset)
        return self._place

    def readinto(self, buffer) -> int:
        if self._place >= self._size:
            return 0
        number = bisect.bisect_right(self._starts, self._place) - 1
        part, inside = self._parts[number], self._place - self._starts[number]
        if isinstance(part, bytes):
            data = part[inside : inside + len(buffer)]
        else:
            self._file.seek(part[0] + inside)
            data = self._file.read(min(len(buffer), part[1] - inside))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
