"""The lines of `watch`: one JSON object for what was new, on stdout or in a file.

A file is resumed: it says which files were looked at, where in a video it was, and
whether what --when asks for was true.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.lines.form import Contents, KeyedJSONLines
from fastvlm_mlx.app.lines.output import LineFile
from fastvlm_mlx.app.watch.shot import Shot


@dataclass(frozen=True)
class Line:
    """A line: fields that are None are left out."""

    values: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        return {key: value for key, value in self.values.items() if value is not None}


@dataclass(frozen=True)
class Label:
    """What all lines of a run have; a file with others is not gone on with."""

    source: str
    model: str
    prompt: str
    when: str

    def line(self, shot: Shot, **values: Any) -> Line:
        """A line about a shot, at this time of the clock."""
        now = datetime.datetime.now().astimezone()
        position = None if shot.position is None else round(shot.position, 3)
        return Line(
            {
                "source": self.source,
                "time": now.isoformat(timespec="milliseconds"),
                "position": position,
                "image": shot.name,
                "modified": shot.modified,
                "model": self.model,
                "prompt": self.prompt,
                "when": self.when,
                **values,
            }
        )


class Stdout:
    """Lines on standard output."""

    def begin(self) -> list[dict[str, Any]]:
        """Nothing was there before."""
        return []

    def write(self, line: Line) -> None:
        terminal.emit(f"{terminal.json_text(line.fields())}\n")

    def close(self) -> None:
        """Standard output stays open."""


class File(LineFile):
    """A file of lines that is gone on with.

    Raises:
        OptionError: it cannot be written, holds something else, or lines of another
            source, model, prompt or condition.
    """

    def __init__(self, path: str | Path, label: Label, *, overwrite: bool):
        form = KeyedJSONLines("source")
        contents = Contents(
            noun="watch line",
            labels=vars(label),
            identity=lambda fields: identity(
                fields.get("image"), fields.get("modified")
            ),
            forms=(form,),
        )
        super().__init__(path, form, contents, overwrite=overwrite)

    def begin(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Prepares the file; the fields of its lines."""
        super().begin()
        return [] if self._overwrite else list(self.kept())


def identity(image: Any, modified: Any) -> str:
    """One text for a file as it was at a time."""
    return f"{image} {modified}"
