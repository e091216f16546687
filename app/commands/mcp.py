"""The signature of `fastvlm-mlx mcp`; the work is in app/mcp/run.py."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_mlx.app.commands import options


def mcp(
    model: options.Model = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Read images in DIR (default: the working folder); repeatable.",
            callback=options.expand_homes,
        ),
    ] = None,
    adapter: options.Adapter = None,
    refresh: options.Refresh = False,
    keep_features: options.KeepFeatures = None,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-url",
            metavar="HOST",
            help="Fetch images from HOST, *.HOST, or * for all; repeatable.",
        ),
    ] = None,
    screen: Annotated[
        bool,
        typer.Option(
            "--screen/--no-screen", help="On a Mac: offer a tool that sees the screen."
        ),
    ] = True,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="[HOST:PORT]",
            help="Serve over HTTP, at 127.0.0.1:8080, instead of stdio.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", help="What HTTP clients must send; or set FASTVLM_TOKEN."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name the HTTP server is reached by; repeatable.",
        ),
    ] = None,
) -> None:
    """Give agents tools that look at images (Model Context Protocol).

    A client such as Claude Code starts this command; docs/mcp.md has the line of its
    configuration. It needs the extra "mcp"; in a clone: pip install '.[mcp]'
    """
    from fastvlm_mlx.app.mcp import run

    run.run(
        run.Options(
            model=model,
            roots=tuple(roots or ()),
            adapter=adapter,
            refresh=refresh,
            keep_features=options.parse_keep_features(keep_features),
            allow_url=tuple(allow_url or ()),
            screen=screen,
            http=http,
            token=token,
            allow_host=tuple(allow_host or ()),
        )
    )
