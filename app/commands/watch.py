"""The signature of `fastvlm-mlx watch`."""

from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def watch(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="camera, screen, FOLDER, FILE or URL."),
    ],
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="TEXT", help="The question.")
    ] = "Describe the image.",
    when: Annotated[
        str | None,
        typer.Option(
            "--when", metavar="TEXT", help="Answer only once this is true of an image."
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="--when: fire at this probability.")
    ] = 0.6,
    release: Annotated[
        float | None,
        typer.Option(
            "--release", help="Fire again after it fell below (default: 0.2 less)."
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="CMD", help="Run this; the line is its standard input."
        ),
    ] = None,
    post: Annotated[
        str | None, typer.Option("--post", metavar="URL", help="Post the line there.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Output file, to go on with."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over instead of going on.")
    ] = False,
    fps: Annotated[
        float, typer.Option("--fps", help="Look at most so many times a second.")
    ] = 2.0,
    from_start: Annotated[
        bool, typer.Option("--all", help="FOLDER: also what is there already.")
    ] = False,
    model: options.Model = None,
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    system: options.System = None,
    fit: options.Fit = None,
    resolution: options.Resolution = None,
    tiles: options.Tiles = None,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = 128,
) -> None:
    """Describe what is new: a camera, a screen, a folder, a video or a stream.

    A line of JSON for each image that shows something new; an image that does not is
    not encoded. Ctrl-C ends it.
    """
    from fastvlm_mlx.app import session
    from fastvlm_mlx.app.watch import run
    from fastvlm_mlx.app.watch.action import Action
    from fastvlm_mlx.app.watch.trigger import Trigger
    from fastvlm_mlx.generation.sampling import Sampling

    run.run(
        run.Request(
            source=source,
            prompt=prompt,
            when=when,
            trigger=Trigger(threshold, release),
            action=Action(command, post),
            out=out,
            overwrite=overwrite,
            fps=fps,
            from_start=from_start,
            model=model,
            adapter=adapter,
            refresh=refresh,
            options=session.validated_options(system, fit, resolution, tiles),
            sampling=Sampling(
                temperature=temperature, seed=seed, max_tokens=max_tokens
            ),
        )
    )
