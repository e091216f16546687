"""Values that need no pydantic: the same as with it, and the same words for faults."""

from typing import Annotated, Any

import pytest
import typer
import typer.main

from fastvlm_mlx.app.plain_values import PlainCommand

VALUES = [
    [],
    ["a"],
    ["a", "", "-"],
    ["--text", "x"],
    ["--text", ""],
    ["--text", "1"],
    ["--texts", "a", "--texts", "b,c"],
    ["--whole", "12"],
    ["--whole", "-3"],
    ["--whole", "007"],
    ["--whole", " 7 "],
    ["--whole", "1_000"],
    ["--whole", "4.0"],
    ["--whole", "+4"],
    ["--whole", "٤"],
    ["--whole", "4" * 30],
    ["--whole", "4" * 5000],
    ["--whole", "many"],
    ["--whole", ""],
    ["--port", "80"],
    ["--port", "-1"],
    ["--port", "70000"],
    ["--share", "0.5"],
    ["--share", "1"],
    ["--share", "half"],
    ["--flag"],
]


def answer(cls: Any, arguments: list[str]) -> Any:
    """What a command of this class is given, or how it refuses it."""
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=cls)
    def command(
        files: Annotated[list[str] | None, typer.Argument()] = None,
        text: str | None = None,
        texts: list[str] | None = None,
        whole: int | None = None,
        port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
        share: float = 0.25,
        flag: bool = False,
    ) -> tuple[Any, ...]:
        return files, text, texts, whole, port, share, flag

    try:
        return typer.main.get_command(app)(arguments, standalone_mode=False)
    except Exception as error:
        return type(error), error.format_message()  # pyright: ignore


@pytest.mark.parametrize("arguments", VALUES, ids=lambda a: " ".join(a)[:40])
def test_as_typer_takes_them(arguments):
    plain = answer(PlainCommand, arguments)
    usual = answer(None, arguments)
    assert plain == usual
    assert list(map(type, plain)) == list(map(type, usual))
