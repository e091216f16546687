"""The signature of `fastvlm-mlx train`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fastvlm_mlx.app.commands import options


def train(
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
            metavar="DATA",
            help="A folder of images with .txt beside them, or a .csv, .jsonl or"
            " .json file.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="ADAPTER",
            help="The folder to write (default: DATA-adapter).",
            callback=options.expand_home,
        ),
    ] = None,
    valid: Annotated[
        str | None,
        typer.Option(
            "--valid", metavar="DATA", help="Measure with these instead of a tenth."
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", help="The share to measure with.")
    ] = 0.1,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="The question, where the data has none.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="DIR", help="Where images lie, if not beside DATA."
        ),
    ] = None,
    method: Annotated[
        Literal["lora", "dora", "full", "projector"] | None,
        typer.Option("--method", help="What learns (default: lora)."),
    ] = None,
    stage: Annotated[
        Literal["1", "2"] | None,
        typer.Option(
            "--stage", help="As in the paper: 1, the connector; 2, with all weights."
        ),
    ] = None,
    projector: Annotated[
        bool, typer.Option("--projector", help="The connector learns too.")
    ] = False,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Of the added matrices (default: 16).")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="Factor of their product (default: 2)."),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", help="Share of inputs they do not see (default: 0)."),
    ] = None,
    num_layers: Annotated[
        int | None,
        typer.Option("--layers", help="The last layers that learn (default: all)."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate (default: 2e-4).")
    ] = None,
    projector_lr: Annotated[
        float | None,
        typer.Option("--projector-lr", help="The connector's (default: 2e-5)."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Times through DATA (default: 3).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Samples at a time (default: 4).")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option("--accumulate", help="Batches in one step (default: 1)."),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option("--warmup", help="Share of steps to full rate (default: 0.03)."),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option("--clip", help="Largest norm of gradients (default: 1)."),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help="AdamW's (default: 0).")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Epochs without gain to stop at (default: 2)."),
    ] = None,
    checkpoint: Annotated[
        bool,
        typer.Option("--checkpoint", help="Take less memory and a third longer."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of all chance (default: 0).")
    ] = None,
    fit: options.Fit = None,
    resolution: options.Resolution = None,
    tiles: options.Tiles = None,
    form: Annotated[
        Literal["mlx", "peft"],
        typer.Option("--format", help="Of the files: mlx-lm's or PEFT's."),
    ] = "mlx",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw the loss curves as .png or .jpg.",
            callback=options.expand_home,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option("--save-every", help="Steps between saves (default: 50)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an adapter, begin anew.")
    ] = False,
) -> None:
    """Train an adapter on your own images.

    The answers to held-out images are scored before and after, and with the images
    hidden. docs/training.md says what to do when nothing is learned.
    """
    from fastvlm_mlx.app import session
    from fastvlm_mlx.app.train import run

    given: dict[str, Any] = {
        "method": method,
        "projector": projector or None,
        "rank": rank,
        "scale": scale,
        "dropout": dropout,
        "num_layers": num_layers,
        "lr": lr,
        "projector_lr": projector_lr,
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "warmup": warmup,
        "clip": clip,
        "weight_decay": weight_decay,
        "patience": patience,
        "checkpoint": checkpoint or None,
        "seed": seed,
        "save_every": save_every,
    }
    code = run.run(
        run.Request(
            model=model,
            data=data,
            out=out,
            valid=valid,
            held_out=held_out,
            question=prompt,
            images=images,
            stage=None if stage is None else int(stage),
            settings={name: each for name, each in given.items() if each is not None},
            view=session.validated_options(None, fit, resolution, tiles),
            format=form,
            plot=plot,
            resume=resume,
            overwrite=overwrite,
        )
    )
    raise typer.Exit(code)
