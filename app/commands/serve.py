"""The signature of `fastvlm-mlx serve`; the work is in app/server/serve.py."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def serve(
    model: options.Model = None,
    adapters: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="Serve MODEL:DIR too, with this adapter; repeatable.",
            callback=options.expand_homes,
        ),
    ] = None,
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-name",
            metavar="NAME",
            help="What clients call the model; default: MODEL, or its folder's name.",
        ),
    ] = None,
    any_model_name: Annotated[
        bool,
        typer.Option(
            "--any-model-name", help="Answer clients that write any other name too."
        ),
    ] = False,
    refresh: options.Refresh = False,
    keep_features: options.KeepFeatures = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others need --token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8080,
    token: Annotated[
        str | None,
        typer.Option("--token", help="What clients must send; or set FASTVLM_TOKEN."),
    ] = None,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-url",
            metavar="HOST",
            help="Fetch images from HOST, *.HOST, or * for all; repeatable.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name this server is reached by; repeatable.",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            "--batch", min=1, max=64, help="Requests answered at once; 1: in turn."
        ),
    ] = 8,
) -> None:
    """Serve OpenAI's, Anthropic's and Ollama's protocols, and a page to ask from.

    It needs the extra "serve"; in a clone: pip install '.[serve]'
    """
    from fastvlm_mlx.app.server import serve

    serve.run(
        serve.Options(
            model=model,
            adapters=tuple(adapters or ()),
            served_name=served_name,
            any_model_name=any_model_name,
            refresh=refresh,
            keep_features=options.parse_keep_features(keep_features),
            host=host,
            port=port,
            token=token,
            allow_host=tuple(allow_host or ()),
            allow_url=tuple(allow_url or ()),
            batch=batch,
        )
    )
