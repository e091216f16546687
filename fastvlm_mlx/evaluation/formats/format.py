"""What a format is: how its files are recognized and how they are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvlm_mlx.evaluation.question import Benchmark

# (the data files, the user's folder of images or None) -> what they hold
Reader = Callable[[Sequence[Path], Path | None], Benchmark]


@dataclass(frozen=True)
class Format:
    """A form in which a benchmark is downloaded.

    Attributes:
        name: for `--format`.
        files: what is expected, for messages, such as "TextVQA_0.5.1_val.json".
        claims: whether a file is of this format, by its name and its first kilobytes.
        read: reads the files of one folder that are.
    """

    name: str
    files: str
    claims: Callable[[Path, bytes], bool]
    read: Reader
