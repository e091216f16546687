"""Values on the command line that need no pydantic.

typer hands every value to pydantic, text and defaults too. To import it and to make a
validator for each option takes 0.1 s, so what is plain is left as it is.
"""

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

_WHOLE = re.compile(r"-?[0-9]{1,18}")


class PlainCommand(TyperCommand):
    """A command that takes plain values as they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _keep_plain(super().get_params(ctx))


class PlainGroup(TyperGroup):
    """A group of commands that takes plain values as they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _keep_plain(super().get_params(ctx))


class _Plain:
    """Stands for typer's `RuntimeParam` of one parameter.

    What is not plain, and what is wrong, goes to typer's own.
    """

    def __init__(self, parameter: Any):
        self.kind = parameter.type_descriptor.annotation
        self.others = parameter.get_runtime_param

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self.kind in (str, int, float) and type(value) is self.kind:
            return value
        if self.kind == list[str] and isinstance(value, list | tuple):
            return list(value)
        unlimited = self.kind is int and param.min is param.max is None
        if unlimited and isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
        return self.others().coerce(value, param=param, ctx=ctx)


def _keep_plain(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if "get_runtime_param" not in vars(parameter):
            plain = _Plain(parameter)
            parameter.get_runtime_param = lambda plain=plain: plain
    return parameters
