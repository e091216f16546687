"""What a file of captions holds."""

import json
from pathlib import Path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(path: Path) -> list[str]:
    """The images that the lines of a file are about."""
    return [Path(line["image"]).name for line in lines(path)]
