"""The command line: parse, call one function, print.

Nothing heavy is imported here. `--help` and shell completion run on every Tab, so
MLX and the model are imported inside the commands (tests/test_cli.py checks).
"""

import sys
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app import convert_command, options, terminal
from fastvlm_mlx.app.bench import options as bench
from fastvlm_mlx.app.caption import options as caption
from fastvlm_mlx.app.server import options as server


class Program(TyperGroup):
    """The program itself, quick to show its help."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        # typer leaves its completion flags without a default, and imports pydantic
        # (0.1 s) on every run to find that None is no bool.
        for parameter in parameters:
            if getattr(parameter, "is_bool_flag", False) and parameter.default is None:
                parameter.default = False
        return parameters


app = typer.Typer(
    name="fastvlm-mlx",
    cls=Program,
    help="Apple's FastVLM on Apple silicon: from a picture to a streamed answer.",
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
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
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
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            metavar="auto|mlx|coreml|PATH",
            help="On a Mac: encode with a Core ML package; auto: if faster.",
        ),
    ] = "auto",
    compute_units: Annotated[
        Literal["all", "cpu-ne", "cpu-gpu", "cpu"] | None,
        typer.Option("--compute-units", help="Where a Core ML package runs."),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Then show times, tokens and memory.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Ask about pictures.

    IMAGE is a path, a URL, or - for standard input. With -p it answers once.
    Without it, what is piped in is the question, and on a terminal a conversation
    begins.
    """
    from fastvlm_mlx.app import chat

    chat.run(
        chat.Request(
            images=tuple(images or ()),
            prompt=prompt,
            model=model,
            view={
                "system": system,
                "fit": fit,
                "resolution": resolution,
                "tiles": tiles,
            },
            sampling={
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k,
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "seed": seed,
                "max_tokens": max_tokens,
                "stop": tuple(stop or ()),
            },
            stats=stats,
            as_json=as_json,
            schema=schema,
            encoder=encoder,
            compute_units=compute_units,
        )
    )


app.command()(convert_command.convert)
app.command()(convert_command.verify)


@app.command()
def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=options.MODEL_HELP,
            autocompletion=options.complete_model,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Show what a model is made of and what it needs."""
    from fastvlm_mlx.app import info

    info.run(model, as_json=as_json)


app.command()(bench.bench)
app.command()(caption.caption)
app.command()(server.serve)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; what goes wrong is one line on stderr."""
    terminal.forgive_encodings()
    try:
        code = app(arguments, prog_name="fastvlm-mlx", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = terminal.report(error)
    sys.exit(code or 0)
