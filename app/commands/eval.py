"""The signature of `fastvlm-mlx eval`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=options.MODEL_HELP,
            autocompletion=options.complete_model,
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A benchmark as downloaded, or your own questions."
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="Of DATA (default: by its files)."
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--image-folder", metavar="DIR", help="Where images lie, if not with DATA."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Instead of the official one."),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(
            "--suffix", metavar="TEXT", help="End each prompt so; '' for nothing."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="Ask N questions, drawn by --seed."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of --limit.")] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Keep all answers, as .jsonl."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over instead of resuming.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="OTHER",
            help="Compare with a model, an adapter, an .mlpackage, answers (.jsonl),"
            " or as resolution=512, tiles=2x2, fit=crop, dtype=bfloat16.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE",
            help="Write the answers that changed as .html.",
            callback=options.expand_home,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Ask an OpenAI-compatible server for MODEL."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", help="Its key (default: OPENAI_API_KEY)."
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", help="Questions to ask at the same time.")
    ] = 8,
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    keep_features: options.KeepFeatures = None,
    system: options.System = None,
    fit: options.Fit = None,
    resolution: options.Resolution = None,
    tiles: options.Tiles = None,
    max_tokens: options.MaxTokens = 128,
    encoder: options.Encoder = "auto",
    compute_units: options.ComputeUnits = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Score a model on a benchmark.

    The answers are greedy. Run the same command again to resume after a stop or an
    error, if -o keeps the answers. docs/evaluation.md lists the benchmarks.
    """
    from fastvlm_mlx.app import session
    from fastvlm_mlx.app.evaluation import run
    from fastvlm_mlx.app.evaluation.request import Request
    from fastvlm_mlx.app.evaluation.setup import Setup

    setup = Setup(
        model=model,
        max_tokens=max_tokens,
        batch=batch,
        options=session.validated_options(system, fit, resolution, tiles),
        adapter=adapter,
        encoder=encoder,
        compute_units=compute_units,
        refresh=refresh,
        keep_features=options.parse_keep_features(keep_features),
        url=url,
        api_key=api_key,
    )
    code = run.run(
        Request(
            setup=setup,
            data=data,
            format=form,
            image_folder=images,
            metric=metric,
            suffix=suffix,
            limit=limit,
            seed=seed,
            out=out,
            overwrite=overwrite,
            against=against,
            page=page,
            as_json=as_json,
        )
    )
    raise typer.Exit(code)
