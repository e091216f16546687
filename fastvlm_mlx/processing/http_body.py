"""Unpacks the body of an HTTP response: gzip, deflate, and zstd where Python has it.

The size that comes out is limited, so a small body cannot fill the memory.
"""

import importlib
import zlib
from typing import Any

_MAX_CODINGS = 4
_PLAIN = ("", "identity", "none", "binary", "utf-8", "aws-chunked")
# PNG, JPEG, GIF, WebP, TIFF: no packed body begins so.
_IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")


class UnknownCoding(ValueError):
    """The body is packed in a way that is not unpacked here: `name`, such as br."""

    def __init__(self, name: str):
        super().__init__(f"packed as {name}")
        self.name = name


class DamagedBody(ValueError):
    """The body is not what its content-encoding, `name`, says, or is cut short."""

    def __init__(self, name: str):
        super().__init__(f"damaged {name} data")
        self.name = name


class TooMuch(ValueError):
    """More than the allowed bytes come out."""


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """`body` without its content-encoding, a list such as "gzip" or "deflate, gzip".

    Raises:
        UnknownCoding, DamagedBody, TooMuch: as they say.
    """
    codings = [each.strip().lower() for each in encoding.split(",")]
    codings = [each for each in codings if each not in _PLAIN]
    if len(codings) > _MAX_CODINGS:
        raise UnknownCoding(encoding[:80])
    for coding in reversed(codings):
        # Some sites store images with a header that does not fit them.
        if body.startswith(_IMAGES):
            break
        if coding in ("gzip", "x-gzip"):
            if body.startswith(b"\x1f\x8b"):
                body = _gunzip(body, max_bytes)
        elif coding == "deflate":
            body = _inflate(body, max_bytes)
        elif coding == "zstd":
            body = _unzstd(body, max_bytes)
        else:
            raise UnknownCoding(coding[:80])
    return body


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """All members; zeros and the like after the last one are no matter."""
    result = bytearray()
    while body.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        result += _all_of(unpacker, body, max_bytes - len(result), "gzip")
        body = unpacker.unused_data
    return bytes(result)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """zlib's format, as the standard says, or raw, as some servers send."""
    for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            return _all_of(zlib.decompressobj(bits), body, max_bytes, "deflate")
        except DamagedBody:
            continue
    raise DamagedBody("deflate")


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    try:
        zstd = importlib.import_module("compression.zstd")  # from Python 3.14 on
    except ImportError:
        raise UnknownCoding("zstd") from None
    result = bytearray()
    while body:
        unpacker = zstd.ZstdDecompressor()
        try:
            result += _all_of(unpacker, body, max_bytes - len(result), "zstd")
        except zstd.ZstdError:
            raise DamagedBody("zstd") from None
        body = unpacker.unused_data
    return bytes(result)


def _all_of(unpacker: Any, body: bytes, max_bytes: int, name: str) -> bytes:
    try:
        result = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        raise DamagedBody(name) from None
    if len(result) > max_bytes:
        raise TooMuch
    if not unpacker.eof:
        raise DamagedBody(name)
    return result
