"""The signature of `fastvlm-mlx caption`."""

from typing import Annotated, Literal

import typer

from fastvlm_mlx.app.commands import options


def caption(
    paths: Annotated[
        list[str],
        # Hidden: its line would say list[str]; the text below says what it is.
        typer.Argument(metavar="PATH", hidden=True),
    ],
    out: Annotated[
        str | None,  # not a Path, to which "./-" is "-"
        typer.Option(
            "--out", "-o", metavar="FILE", help="Output file (default: stdout)."
        ),
    ] = None,
    form: Annotated[
        Literal["jsonl", "csv", "tsv", "txt"] | None,
        typer.Option("--format", help="txt writes photo.txt beside photo.jpg."),
    ] = None,
    xmp: Annotated[
        bool,
        typer.Option("--xmp", help="Write or fill in photo.jpg.xmp beside photo.jpg."),
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Start over instead of resuming."),
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="The question (default: Describe the image.).",
        ),
    ] = None,
    preset: Annotated[
        Literal["alt-text", "tags", "title", "caption"] | None,
        typer.Option("--preset", help="Ask for one of these instead, and trim it."),
    ] = None,
    schema: options.Schema = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    keep_features: options.KeepFeatures = None,
    batch: Annotated[
        int, typer.Option("--batch", help="Images to caption at the same time.")
    ] = 8,
    system: options.System = None,
    fit: options.Fit = None,
    resolution: options.Resolution = None,
    tiles: options.Tiles = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = 256,
    stop: options.Stop = None,
) -> None:
    """Caption images.

    PATH is an image, a folder or a pattern such as 'photos/**/*.jpg'. Run the same
    command again to resume after a stop or an error: images that have a caption are
    skipped, images that failed are tried again.
    """
    from fastvlm_mlx.app import session
    from fastvlm_mlx.app.caption import run
    from fastvlm_mlx.generation.sampling import Sampling

    code = run.run(
        run.Request(
            paths=tuple(paths),
            out=out,
            form=form,
            xmp=xmp,
            recursive=recursive,
            overwrite=overwrite,
            batch=batch,
            prompt=prompt,
            preset=preset,
            schema=schema,
            model=model,
            adapter=adapter,
            refresh=refresh,
            keep_features=options.parse_keep_features(keep_features),
            options=session.validated_options(system, fit, resolution, tiles),
            sampling=Sampling(
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
                max_tokens=max_tokens,
                stop=tuple(stop or ()),
            ),
        )
    )
    raise typer.Exit(code)
