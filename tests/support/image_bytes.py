"""Image files made byte by byte: PNG chunks, TIFFs of any kind."""

import struct
import zlib

import numpy as np

from tests.support.small_images import encoded


def png_chunk(kind: bytes, body: bytes, *, bad_crc: bool = False) -> bytes:
    crc = zlib.crc32(kind + body) ^ bad_crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png_with(image, *chunks: bytes, at_end: bool = False) -> bytes:
    """`image` as PNG with `chunks` after its header or before its end."""
    data = encoded(image, "PNG")
    at = len(data) - 12 if at_end else 33
    return data[:at] + b"".join(chunks) + data[at:]


def png_of(depth: int, colour: int, rows: list[bytes], *chunks: bytes) -> bytes:
    """A PNG of packed `rows`; `colour` is 0 grey, 2 RGB, 3 palette, 4 grey + alpha."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(
        ">IIBBBBB", len(rows[0]) * 8 // bits, len(rows), depth, colour, 0, 0, 0
    )
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [png_chunk(b"IHDR", header), *chunks]
    parts += [png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    pixels: np.ndarray,
    photometric: int,
    *,
    planar: int = 1,
    compression: int = 1,
    tags: dict[int, tuple[str, list[int]]] | None = None,
) -> bytes:
    """A TIFF in the byte order of `pixels`' dtype; compression 1 is none, 8 zlib."""
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    planes = [pixels]
    if planar == 2 and pixels.ndim == 3:
        planes = [np.ascontiguousarray(pixels[..., n]) for n in range(samples)]
    data, places, sizes = b"", [], []
    for plane in planes:
        body = plane.tobytes()
        body = zlib.compress(body) if compression == 8 else body
        places.append(8 + len(data))
        sizes.append(len(body))
        data += body + bytes(len(body) % 2)
    fields: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [pixels.dtype.itemsize * 8] * samples),
        259: ("H", [compression]),
        262: ("H", [photometric]),
        273: ("I", places),
        277: ("H", [samples]),
        278: ("I", [height]),
        279: ("I", sizes),
        284: ("H", [planar]),
        339: ("H", [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * samples),
    }
    if samples == {0: 2, 1: 2, 2: 4}.get(photometric):
        fields[338] = ("H", [2])  # alpha
    fields |= tags or {}
    place = 8 + len(data)
    room = place + 2 + 12 * len(fields) + 4
    entries, tail = b"", b""
    for tag, (form, values) in sorted(fields.items()):
        body = struct.pack(f"{order}{len(values)}{form}", *values)
        kind = {"H": 3, "I": 4, "B": 1}[form]
        entries += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(body) <= 4:
            entries += body.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", room + len(tail))
            tail += body
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", place)
    count = struct.pack(f"{order}H", len(fields))
    return head + data + count + entries + struct.pack(f"{order}I", 0) + tail
