"""The signature of `fastvlm-mlx chat`."""

from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def chat(
    images: Annotated[
        list[str] | None,
        # Hidden: its line would say list[str]; the text below says what it is.
        typer.Argument(metavar="IMAGE", hidden=True),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="The question."),
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    keep_features: options.KeepFeatures = None,
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
    max_tokens: options.MaxTokens = 512,
    stop: options.Stop = None,
    schema: options.Schema = None,
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            metavar="A,B,...",
            help="Print the probability of each of these answers.",
        ),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option("--page", metavar="N", help="Page of a PDF: 3, 2-4 or 1,5."),
    ] = None,
    clipboard: Annotated[
        bool, typer.Option("--clipboard", help="On a Mac: add the image copied last.")
    ] = False,
    screen: Annotated[
        bool, typer.Option("--screen", help="On a Mac: add what the screen shows.")
    ] = False,
    encoder: options.Encoder = "auto",
    compute_units: options.ComputeUnits = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Then show times, tokens and memory.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Ask about images.

    IMAGE is a path, a URL, or - for standard input; a PDF is its first page. With -p
    it answers once. Without it, what is piped in is the question, and on a terminal a
    conversation begins.
    """
    from fastvlm_mlx.app import session
    from fastvlm_mlx.app.chat import run
    from fastvlm_mlx.generation.sampling import Sampling

    run.run(
        run.Request(
            images=tuple(images or ()),
            prompt=prompt,
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
            stats=stats,
            as_json=as_json,
            schema=schema,
            choices=choices,
            page=page,
            clipboard=clipboard,
            screen=screen,
            encoder=encoder,
            compute_units=compute_units,
        )
    )
