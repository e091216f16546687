"""Options that several commands share. Imports nothing heavy, as `cli.py`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

MODELS = ("demo", "0.5b", "1.5b", "7b")
MODEL_HELP = "demo, 0.5b, 1.5b, 7b, a hub id, a folder or a zip."


def complete_model(incomplete: str) -> list[str]:
    return [name for name in MODELS if name.startswith(incomplete)]


def expand_home(path: Path | None) -> Path | None:
    """`~` as the shell would expand it: within quotes, or behind `=`, it does not."""
    return None if path is None else Path(os.path.expanduser(path))


def expand_homes(paths: Sequence[Path] | None) -> list[Path] | None:
    return None if paths is None else [Path(os.path.expanduser(p)) for p in paths]


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=MODEL_HELP,
        autocompletion=complete_model,
    ),
]

Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        help="Put this adapter on the model.",
        callback=expand_home,
    ),
]
MergedAdapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        help="Merge this adapter into the weights first.",
        callback=expand_home,
    ),
]

Refresh = Annotated[
    bool,
    typer.Option("--refresh", help="Look on the hub for a newer revision of it first."),
]

# Of a conversation: None stands for "as the model's config says".
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="Replace the system prompt."),
]
Fit = Annotated[
    Literal["pad", "crop", "stretch"] | None,
    typer.Option("--fit", help="Make an image square in this way."),
]
Resolution = Annotated[
    int | None,
    typer.Option(
        "--resolution",
        help="Scale images to this side in pixels, a multiple of 64.",
    ),
]
Tiles = Annotated[
    str | None,
    typer.Option(
        "--tiles", metavar="RxC", help="Add R rows of C tiles for small print."
    ),
]

Encoder = Annotated[
    str,
    typer.Option(
        "--encoder",
        metavar="auto|mlx|coreml|coreai|PATH",
        help="On a Mac: encode with Core ML or Core AI; auto: Core ML if faster.",
    ),
]
ComputeUnits = Annotated[
    Literal["all", "cpu-ne", "cpu-gpu", "cpu"] | None,
    typer.Option("--compute-units", help="Where a Core ML package runs."),
]

KeepFeatures = Annotated[
    str | None,
    typer.Option(
        "--keep-features",
        metavar="[SIZE]",
        help="Keep encoded images on disk, 1GB or SIZE of them, for later runs.",
        show_default=False,
    ),
]


def parse_keep_features(size: str | None) -> int | None:
    """Bytes; None keeps nothing.

    Raises:
        OptionError: it is no size.
    """
    from fastvlm_mlx.errors import OptionError
    from fastvlm_mlx.files.disk_space import parse_size

    try:
        return None if size is None else parse_size(size)
    except OptionError as error:
        reason = str(error).removeprefix("size ")
        raise OptionError(f"--keep-features {reason}") from None


# Of an answer.
Temperature = Annotated[
    float, typer.Option("--temperature", help="0 always takes the likeliest token.")
]
TopP = Annotated[
    float, typer.Option("--top-p", help="Sample from this much probability; 1: all.")
]
TopK = Annotated[
    int, typer.Option("--top-k", help="Sample from the K likeliest; 0: all.")
]
MinP = Annotated[
    float, typer.Option("--min-p", help="Drop tokens below this share of the best.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1, repeat less.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Make sampling repeatable.")]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", help="End the answer after this many tokens.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End the answer at this; repeatable."),
]
Schema = Annotated[
    Path | None,
    typer.Option(
        "--schema",
        metavar="FILE",
        help="Answer in JSON of this JSON schema.",
        callback=expand_home,
    ),
]

# Of what is written.
OutFolder = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="The folder to write.", callback=expand_home),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC", help="A checkpoint: folder, file, zip, hub id or name."
    ),
]
QBits = Annotated[
    Literal["4", "8"] | None,
    typer.Option("--q-bits", help="Quantize the language model to this many bits."),
]
QGroupSize = Annotated[
    int | None,
    typer.Option("--q-group-size", help="Give 32, 64 or 128 weights one scale."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace OUT if this program wrote it.")
]
