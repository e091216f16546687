"""The signature of `fastvlm-mlx info`."""

from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=options.MODEL_HELP,
            autocompletion=options.complete_model,
        ),
    ],
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Show what a model is made of and what it needs."""
    from fastvlm_mlx.app.info import facts

    facts.run(model, refresh=refresh, as_json=as_json, adapter=adapter)
