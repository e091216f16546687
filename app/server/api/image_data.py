"""The images that requests hold: base64, data: URLs, and http(s) URLs left as they are.

Lenient as clients are: RFC 2045 ignores line ends in base64, RFC 4648 has a second
alphabet, and RFC 2397's URLs may be percent-encoded and spelled in capitals.
"""

import base64
import re
from urllib.parse import unquote_to_bytes

from fastvlm_mlx.app.server.http.errors import APIError

# Up to the first comma outside of quotation marks: type and parameters.
_HEAD = re.compile(r'data:((?:[^,"]|"[^"]*")*),', re.IGNORECASE)
_MAX_HEAD = 4096
_NOUNS = {"image": "an image", "video": "a video"}
_URL_SAFE = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+")


def from_base64(text: str, field: str, kind: str = "image") -> bytes:
    """The bytes that `text`, base64 or a data: URL, encodes.

    Raises:
        APIError: It is neither, or empty; the message names `field`.
    """
    if is_data_url(text):
        return _from_data_url(text, field, kind)
    # Spaces and line ends anywhere, either alphabet, padded or not.
    digits = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    if not _BASE64.fullmatch(digits) or len(digits) % 4 == 1:
        raise _invalid(
            field, f"is not base64 of {_NOUNS[kind]} file", f"invalid_{kind}"
        )
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


def from_url(url: str, field: str, *, kind: str = "image") -> bytes | str:
    """The bytes of a data: URL, or an http(s) URL unchanged, to be fetched later.

    Raises:
        APIError: It is neither; the message names `field`.
    """
    if is_data_url(url):
        return _from_data_url(url, field, kind)
    url = url.strip()
    if url[:8].lower().startswith(("http://", "https://")):
        return url
    # Not quoted in the message: it may be part of an image.
    raise _invalid(
        field,
        f"give data:{kind}/...;base64,... or an http(s) address",
        f"invalid_{kind}_url",
    )


def is_data_url(text: str) -> bool:
    """Whether `text` begins like a data: URL."""
    return text[:100].lstrip()[:5].lower() == "data:"


def _from_data_url(url: str, field: str, kind: str) -> bytes:
    url = url.lstrip()
    head = _HEAD.match(url[:_MAX_HEAD])
    parameters = [one.strip().lower() for one in head[1].split(";")] if head else []
    # A fragment is no part of the data; base64 has none.
    data = url[head.end() :].partition("#")[0] if head else ""
    unquoted = unquote_to_bytes(data) if "%" in data else b""
    if "base64" not in parameters[1:]:
        if not unquoted.isascii():  # the file itself
            return unquoted
        raise _invalid(
            field,
            f"a data: url must be data:{kind}/...;base64,...",
            f"invalid_{kind}_url",
        )
    if unquoted:
        data = unquoted.decode("latin-1")
    if is_data_url(data):  # encoded twice
        raise _invalid(
            field, f"is not base64 of {_NOUNS[kind]} file", f"invalid_{kind}"
        )
    return from_base64(data, field, kind)


def _invalid(field: str, fault: str, code: str) -> APIError:
    return APIError(400, f"{field}: {fault}", code=code, param=field)
