"""The signature of `fastvlm-mlx video`."""

from typing import Annotated, Literal

import typer

from fastvlm_mlx.app.commands import options


def video(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A video: a path or an address.")
    ],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="The question about each scene (default: Describe the image.).",
        ),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            "--ask", metavar="TEXT", help="Answer once, over at most 8 frames."
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Sum the lines up at the end.")
    ] = False,
    every: Annotated[
        str | None,
        typer.Option(
            "--every", metavar="TIME", help="Take a frame each TIME, such as 2s."
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", help="Take N frames, evenly."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Begin at TIME, such as 1:30."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End at TIME.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file: .jsonl, .csv, .tsv, .srt, .vtt or .txt.",
        ),
    ] = None,
    form: Annotated[
        Literal["text", "jsonl", "csv", "tsv", "srt", "vtt"] | None,
        typer.Option("--format", help="The output's form (default: by its name)."),
    ] = None,
    sheet: Annotated[
        str | None,
        typer.Option("--sheet", metavar="IMAGE", help="Write a contact sheet."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Start over instead of resuming."),
    ] = False,
    schema: options.Schema = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    batch: Annotated[
        int, typer.Option("--batch", help="Scenes to describe at the same time.")
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
    """Describe a video, scene by scene.

    A frame is taken where the image changes and comes to rest, or by --every or
    --frames; frames that show nothing new are left out. Run the same command again to
    resume after a stop.
    """
    from fastvlm_mlx.app import session
    from fastvlm_mlx.app.video.request import Request
    from fastvlm_mlx.app.video.run import run
    from fastvlm_mlx.app.video.times import parse_time
    from fastvlm_mlx.generation.sampling import Sampling

    code = run(
        Request(
            file=file,
            prompt=prompt,
            ask=ask,
            summary=summary,
            every=None if every is None else parse_time(every, "--every"),
            count=frames,
            start=0.0 if start is None else parse_time(start, "--from"),
            end=None if end is None else parse_time(end, "--to"),
            out=out,
            form=form,
            sheet=sheet,
            overwrite=overwrite,
            batch=batch,
            schema=schema,
            model=model,
            adapter=adapter,
            refresh=refresh,
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
