"""Times as people write them, and as lines and subtitles show them."""

import re

from fastvlm_mlx.app.session import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|m|h)?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")


def parse_time(text: str, option: str) -> float:
    """The seconds of `90`, `2.5s`, `500ms`, `3m`, `1:30` or `1:02:03.5`.

    Raises:
        UsageError: it is none of these; the message names `option`.
    """
    text = text.strip().lower()
    if match := _AMOUNT.fullmatch(text):
        return float(match[1]) * _UNITS[match[2] or "s"]
    if match := _CLOCK.fullmatch(text):
        return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])
    raise UsageError(f"{option} {text[:100]!r}: no time; write 90, 2.5s or 1:30")


def clock(seconds: float) -> str:
    """`00:12`, or `1:00:12` from an hour on; milliseconds only where there are any."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    text = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
    return f"{text}.{milliseconds:03}".rstrip("0") if milliseconds else text


def stamp(seconds: float, mark: str) -> str:
    """`00:00:12,500` as subtitles have it; `mark` stands before the milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours:02}:{minutes:02}:{rest:02}{mark}{milliseconds:03}"
