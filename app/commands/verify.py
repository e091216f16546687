"""The signature of `fastvlm-mlx verify`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def verify(
    package: Annotated[
        Path,
        typer.Argument(
            metavar="PACKAGE",
            help="The .mlpackage or .aimodel of an encoder, or a Core AI folder.",
            callback=options.expand_home,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="The checkpoint it was made from."
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="PATH",
            help="Compare on this; repeatable.",
            callback=options.expand_homes,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Round every intermediate to float16 as well."),
    ] = False,
    device: Annotated[
        bool,
        typer.Option(
            "--device", help="On a Mac: run it with Core ML, on every compute unit."
        ),
    ] = False,
) -> None:
    """Compare a Core ML package or Core AI model with the MLX encoder."""
    from fastvlm_mlx.app.export import verify

    verify.run(package, model, images or (), strict=strict, device=device)
