"""The options of `fastvlm-mlx caption`. Imports nothing heavy, as `cli.py`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def caption(
    paths: Annotated[
        list[str],
        # Hidden: its line would say list[str]; the text below says what it is.
        typer.Argument(metavar="PATH", hidden=True),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Else standard output."),
    ] = None,
    form: Annotated[
        Literal["jsonl", "csv", "txt"] | None,
        typer.Option("--format", help="txt writes photo.txt beside photo.jpg."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Begin anew; else only what is missing is added."
        ),
    ] = False,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="TEXT", help="The question.")
    ] = "Describe the image.",
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", metavar="FILE", help="Answer in JSON of this JSON schema."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="demo, 0.5b, 1.5b, 7b, a hub id, a folder or a zip."
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", help="Pictures to caption at the same time.")
    ] = 8,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="Replace the system prompt."),
    ] = None,
    fit: Annotated[
        Literal["pad", "crop", "stretch"] | None,
        typer.Option("--fit", help="How a picture becomes square."),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option("--resolution", help="Side of the square; a multiple of 64."),
    ] = None,
    tiles: Annotated[
        str | None,
        typer.Option(
            "--tiles", metavar="RxC", help="Add R rows of C tiles for small print."
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option("--top-p", help="Sample from this much probability; 1: all."),
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Sample from the K likeliest; 0: all.")
    ] = 0,
    min_p: Annotated[
        float, typer.Option("--min-p", help="Drop tokens below this share of the best.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float | None,
        typer.Option("--repetition-penalty", help="Above 1, repeat less."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Make sampling repeatable.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="End a caption after this many tokens.")
    ] = 256,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop", metavar="TEXT", help="End a caption at this; repeatable."
        ),
    ] = None,
) -> None:
    """Caption pictures.

    PATH is a picture, a folder or a pattern such as 'photos/**/*.jpg'. However a run
    ended, the same command goes on with it: pictures that have a caption are left,
    and those that failed are tried again.
    """
    from fastvlm_mlx.app.caption import run

    code = run.run(
        run.Request(
            paths=tuple(paths),
            out=out,
            form=form,
            recursive=recursive,
            overwrite=overwrite,
            batch=batch,
            prompt=prompt,
            schema=schema,
            model=model,
            view={
                "system": system,
                "fit": fit,
                "resolution": resolution,
                "tiles": tiles,
            },
            sampling={
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k,
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "seed": seed,
                "max_tokens": max_tokens,
                "stop": tuple(stop or ()),
            },
        )
    )
    raise typer.Exit(code)
