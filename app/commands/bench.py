"""The options of `fastvlm-mlx bench`. Imports nothing heavy, as `cli.py`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def bench(
    model: options.Model = None,
    resolutions: Annotated[
        list[int] | None,
        typer.Option(
            "--resolution", help="Side of the image; repeatable. Else the model's."
        ),
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="mlx, or coreml-all, -ane, -gpu, -cpu; repeatable.",
        ),
    ] = None,
    tiles: Annotated[
        str | None,
        typer.Option("--tiles", metavar="RxC", help="Add R rows of C tiles."),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="Measure with this image.")
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="The question.")
    ] = "Describe the image.",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Tokens of each answer; all are made.")
    ] = 32,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Measured runs.")] = 5,
    warmup: Annotated[
        int, typer.Option("--warmup", help="Runs before them that do not count.")
    ] = 1,
    cold: Annotated[
        bool, typer.Option(help="Measure new processes too, memory with them.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON line alone.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the stages: .png or .jpg."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare", metavar="A B", help="Measure nothing: compare two reports."
        ),
    ] = None,
) -> None:
    """Measure how fast a model is here, stage by stage.

    Prints a table, then the same as one line of JSON. Save it (`--json > a.json`) to
    compare it later: `bench --compare a.json b.json`.
    """
    from fastvlm_mlx.app.bench import run

    if compare is not None:
        run.compare(*compare, as_json=as_json)
        return
    run.run(
        run.Request(
            model=model,
            resolutions=tuple(resolutions or ()),
            encoders=tuple(encoders or ()),
            tiles=tiles,
            image=image,
            prompt=prompt,
            max_tokens=max_tokens,
            runs=runs,
            warmup=warmup,
            cold=cold,
            as_json=as_json,
            plot=plot,
        )
    )
