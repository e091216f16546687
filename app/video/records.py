"""A scene's record, and the forms in which it is written: lines and subtitles."""

import json
from dataclasses import dataclass
from typing import Any

from fastvlm_mlx.app.caption.records import CSV
from fastvlm_mlx.app.lines.form import Contents, Form, KeyedJSONLines
from fastvlm_mlx.app.terminal import PLAIN
from fastvlm_mlx.app.video.times import clock, stamp

FIELDS = (
    "video",
    "time",
    "end",
    "caption",
    "finish_reason",
    "error",
    "model",
    "prompt",
    "frames",
)


@dataclass(frozen=True)
class Record:
    """What is shown from `time` to `end`, in seconds, and what the model says of it.

    `frames` says how frames were chosen, such as "scenes" or "every 2 s".
    """

    video: str
    time: float
    end: float
    model: str
    prompt: str
    frames: str
    caption: Any = None
    finish_reason: str | None = None
    error: str | None = None

    def fields(self) -> dict[str, Any]:
        """What is known, by name, in the order of FIELDS."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def text(self) -> str:
        """The caption as text."""
        if isinstance(self.caption, str):
            return self.caption
        return json.dumps(self.caption, ensure_ascii=False)


class Table(CSV):
    """A table of scenes with a header; see `CSV`."""

    def __init__(self, delimiter: str = ","):
        super().__init__(delimiter)
        self._names = FIELDS
        self.header = self.opening = (delimiter.join(FIELDS) + "\n").encode()


class _Written:
    """A form that is written and never read back."""

    quoted = False
    header = opening = b""

    def decode(self, line: bytes) -> dict[str, Any]:
        raise ValueError("not read back")

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\n")

    def encode(self, record: Record, *, ascii: bool = False) -> bytes:
        if record.error is not None:
            return b""
        return self._cue(record, _plain(record.text())).encode(errors="replace")

    def _cue(self, record: Record, text: str) -> str:
        raise NotImplementedError


class Text(_Written):
    """`00:12  A man opens the door.`: a line for each scene."""

    def _cue(self, record: Record, text: str) -> str:
        return f"{clock(record.time)}  {' '.join(text.split())}\n"


class SRT(_Written):
    """SubRip subtitles, numbered from 1."""

    def __init__(self):
        self._number = 0

    def _cue(self, record: Record, text: str) -> str:
        self._number += 1
        start, end = (stamp(each, ",") for each in (record.time, record.end))
        return f"{self._number}\n{start} --> {end}\n{_cue_text(text)}\n\n"


class WebVTT(_Written):
    """WebVTT subtitles."""

    header = b"WEBVTT\n\n"

    def _cue(self, record: Record, text: str) -> str:
        start, end = (stamp(each, ".") for each in (record.time, record.end))
        # Its own marks; "-->" would begin another cue.
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"{start} --> {end}\n{_cue_text(text)}\n\n"


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable() or c in PLAIN)


def _cue_text(text: str) -> str:
    # A blank line ends a cue; in SRT this arrow would begin another.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines).replace("-->", "->")


def form_named(name: str) -> Form:
    """The form of a `--format`: text, jsonl, csv, tsv, srt or vtt."""
    if name in ("csv", "tsv"):
        return Table("," if name == "csv" else "\t")
    if name == "jsonl":
        return KeyedJSONLines("video")
    return {"text": Text, "srt": SRT, "vtt": WebVTT}[name]()


def identity(time: float | str) -> str:
    """One text for all writings of a scene's time."""
    return f"{float(time):.3f}"


def contents_of(model: str, prompt: str, frames: str) -> Contents:
    """What the lines of a file are about."""
    return Contents(
        noun="description",
        labels={"model": model, "prompt": prompt, "frames": frames},
        identity=lambda fields: identity(fields["time"]),
        forms=(KeyedJSONLines("video"), Table(), Table("\t")),
    )
