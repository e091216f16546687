"""The command line: parse, call one function, print.

Nothing heavy is imported here. `--help` and shell completion run on every Tab, so
MLX and the model are imported inside the commands (tests/app/test_cli.py checks).
"""

import sys
from functools import cache
from typing import Annotated, Any, NoReturn, cast

import typer
import typer.main
from typer.core import TyperGroup

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app import optional_values, terminal
from fastvlm_mlx.app.commands import (
    bench,
    caption,
    chat,
    convert,
    export,
    info,
    mcp,
    serve,
    train,
    verify,
    video,
    watch,
)
from fastvlm_mlx.app.commands import (
    eval as evaluation,
)
from fastvlm_mlx.app.plain_values import PlainCommand, PlainGroup
from fastvlm_mlx.files.standard_descriptors import open_closed_descriptors

# In the order in which they are met.
COMMANDS = [
    "chat",
    "caption",
    "video",
    "watch",
    "train",
    "eval",
    "convert",
    "export",
    "verify",
    "info",
    "bench",
    "serve",
    "mcp",
]


class Program(PlainGroup):
    """The program itself, quick to show its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=COMMANDS.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, optional_values.with_values(args))


app = typer.Typer(
    name="fastvlm-mlx",
    cls=Program,
    help="Apple's FastVLM on Apple silicon: from an image to a streamed answer.",
    context_settings={"help_option_names": ["-h", "--help"]},
    # Plain help is stable enough to stand in the README, and rich takes 0.1 s to load.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fastvlm-mlx {__version__}")
        raise typer.Exit()


@app.callback()
def overview(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in (
    chat.chat,
    convert.convert,
    verify.verify,
    info.info,
    bench.bench,
    caption.caption,
    video.video,
    watch.watch,
    train.train,
    serve.serve,
    mcp.mcp,
):
    app.command(cls=PlainCommand)(command)
app.command("eval", cls=PlainCommand)(evaluation.evaluate)
app.add_typer(export.export)


@cache
def _program() -> TyperGroup:
    """The commands as click has them; a second call in a process need not make them."""
    return cast(TyperGroup, typer.main.get_command(app))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; what goes wrong is one line on stderr."""
    open_closed_descriptors()
    terminal.forgive_encodings()
    try:
        code = _program()(arguments, prog_name="fastvlm-mlx", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = terminal.report(error)
    sys.exit(terminal.flush() or code or 0)
