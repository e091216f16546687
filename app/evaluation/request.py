"""The command line of `eval`, checked before anything is read or loaded."""

import os
from dataclasses import dataclass
from pathlib import Path

from fastvlm_mlx.app import session
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.evaluation.answers import out_path
from fastvlm_mlx.app.evaluation.page import check_page
from fastvlm_mlx.app.evaluation.setup import Setup, other_setup
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.formats.read import FORMATS
from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.generation.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """The command line of `eval`.

    - `data`: a file or a folder; `format`, `metric`, `suffix`: None is what it says.
    - `limit`: a sample of so many questions, chosen by `seed`; None: all.
    - `out`: a .jsonl file of all answers.
    - `against`: what `other_setup` reads; `page`: an HTML file of what changed.
    """

    setup: Setup
    data: str
    format: str | None = None
    image_folder: str | None = None
    metric: str | None = None
    suffix: str | None = None
    limit: int | None = None
    seed: int = 0
    out: str | None = None
    overwrite: bool = False
    against: str | None = None
    page: Path | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Checked:
    """What a request comes to: where answers go, and who else is asked.

    - `out`, `other_out`: files of answers, or None.
    - `other`: a setup, the path of a file of answers, or None.
    """

    out: Path | None
    other: Setup | Path | None
    other_out: Path | None


def check(request: Request) -> Checked:
    """Checks what can be checked without reading the data.

    Raises:
        UsageError: options that do not go together.
        OptionError: a value that cannot be honoured.
    """
    setup = request.setup
    for option, value in (
        ("--batch", setup.batch),
        ("--limit", request.limit),
    ):
        if value is not None and value < 1:
            raise session.UsageError(f"{option} {value}: must be at least 1")
    Sampling(max_tokens=setup.max_tokens)
    if request.metric is not None and request.metric not in METRICS:
        raise session.UsageError(
            f"--metric {request.metric}: unknown; use one of {', '.join(METRICS)}"
        )
    if request.format is not None and request.format not in FORMATS:
        raise session.UsageError(
            f"--format {request.format}: unknown; use one of {', '.join(FORMATS)}"
        )
    _check_model(setup)
    out = out_path(request.out)
    if request.overwrite and out is None:
        raise session.UsageError(
            "--overwrite is for a file of answers; name it with -o"
        )
    if request.page is not None:
        if request.against is None:
            raise session.UsageError(
                f"--page {request.page}: shows the answers that differ from those of"
                " another; name it with --against"
            )
        check_page(request.page)
    if request.against is None:
        return Checked(out, None, None)
    other = other_setup(request.against, setup)
    if isinstance(other, Path):
        if out is not None and other.resolve() == out.resolve():
            raise session.UsageError(
                f"--against {request.against}: is the file of -o; name another"
            )
        return Checked(out, other, None)
    if other == setup:
        raise session.UsageError(
            f"--against {request.against}: is what is evaluated; name another"
        )
    return Checked(out, other, out and beside(out, request.against))


def beside(out: Path, against: str) -> Path:
    """The file of the other's answers: `a.against-0.5b-4bit.jsonl` beside `a.jsonl`."""
    name = os.path.basename(against.rstrip("/")) or against
    plain = "".join(c if c.isalnum() or c in "._=-" else "-" for c in name)
    return out.with_name(f"{out.stem}.against-{plain[:80]}{out.suffix}")


def _check_model(setup: Setup) -> None:
    if setup.url is None:
        if setup.api_key is not None:
            raise session.UsageError("--api-key is for a server; name it with --url")
        packages.check(setup.encoder, setup.compute_units)
        return
    from fastvlm_mlx.evaluation.server import base_address, import_openai

    base_address(setup.url)
    options = setup.options
    for option, value in (
        ("--fit", options.fit),
        ("--resolution", options.resolution),
        ("--tiles", options.tiles),
        ("--adapter", setup.adapter),
        ("--encoder", None if setup.encoder == "auto" else setup.encoder),
        ("--compute-units", setup.compute_units),
        ("--refresh", setup.refresh or None),
        ("--keep-features", setup.keep_features),
    ):
        if value is not None:
            raise session.UsageError(
                f"{option} with --url: the server chooses that; set it there"
            )
    if not setup.model.strip():
        raise OptionError("MODEL is empty; give the name that the server knows")
    import_openai()
