"""The signature of `fastvlm-mlx bench`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def bench(
    model: options.Model = None,
    adapter: options.Adapter = None,
    resolutions: Annotated[
        list[int] | None,
        typer.Option(
            "--resolution", help="Pixels a side; repeatable (default: the model's)."
        ),
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="mlx, coreai, coreml-all, coreml-ane, coreml-gpu, coreml-cpu; repeat.",
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
        int,
        typer.Option(
            "--max-tokens", help="Tokens to generate per run (stop tokens are ignored)."
        ),
    ] = 32,
    runs: Annotated[int, typer.Option("--runs", "-n", help="Measured runs.")] = 5,
    warmup: Annotated[
        int, typer.Option("--warmup", help="Runs before them that are not measured.")
    ] = 1,
    cold: Annotated[
        bool,
        typer.Option(help="Also measure cold start and peak memory in new processes."),
    ] = True,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON instead of the table."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the stages as a chart: .png or .jpg."
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare", metavar="A B", help="Compare two reports instead of measuring."
        ),
    ] = None,
) -> None:
    """Measure how fast a model is here, stage by stage.

    Prints a table. To compare two measurements, save each with `--json > a.json`,
    then run `bench --compare a.json b.json`.
    """
    from fastvlm_mlx.app.bench import run

    if compare is not None:
        run.compare(*compare, as_json=as_json)
        return
    run.run(
        run.Request(
            model=model,
            adapter=adapter,
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
