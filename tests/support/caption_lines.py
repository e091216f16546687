"""Files of captions, and what they hold."""

import json
from pathlib import Path

from fastvlm_mlx.app.caption.output import File
from fastvlm_mlx.app.caption.records import JSONLines, Record

LABEL = {"model": "m", "prompt": "p"}


def opened(path: Path) -> File:
    """A file of captions in JSON lines, not locked yet."""
    return File(path, JSONLines(), **LABEL, overwrite=False)


def captioned(name: str) -> Record:
    return Record(name, **LABEL, caption="A cat.", finish_reason="stop")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(path: Path) -> list[str]:
    """The images that the lines of a file are about."""
    return [Path(line["image"]).name for line in lines(path)]
