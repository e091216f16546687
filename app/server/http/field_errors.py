"""Says what is wrong with a body in the client's words: the field, and what to give.

pydantic's own messages name its types, and its paths the branches of unions.
"""

import functools
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from fastvlm_mlx.app.server.http.errors import APIError

_MAX_PATH = 200
# What a field takes, by the type of the error.
_TYPES = {
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "none_required": "null",
}
_NUMBERS = (
    *("int_type", "int_from_float", "float_type", "finite_number"),
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
)

Path = tuple[int | str, ...]


def field_error(error: ValidationError, data: Any, schema: type[BaseModel]) -> APIError:
    """The response to a body whose value is `data` and not of `schema`.

    It names the invalid field, as in `messages[0].content`, and quotes no value.
    """
    found = [
        (_client_path(one["loc"], data, one["type"] == "missing"), one)
        for one in error.errors(include_url=False, include_input=False)
    ]
    # A union reports each of its branches; the deepest is the one that was meant.
    deepest = max(len(path) for path, _ in found)
    path = next(path for path, _ in found if len(path) == deepest)
    here = [one for other, one in found if other == path]
    expected = [_expected(one, path, schema) for one in here]
    first = next((one for one, e in zip(here, expected, strict=True) if not e), None)
    param = _written(path)
    if first is None:
        words = " or ".join(dict.fromkeys(expected))
        return _invalid(param, f"give {words}")
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}"
        return APIError(400, message, code="unknown_parameter", param=param)
    if kind in ("missing", "union_tag_not_found"):
        if kind != "missing":
            param = f"{param}.{context['discriminator']}".replace("'", "")
        message = f"Missing required parameter: '{param}'"
        return APIError(400, message, code="missing_required_parameter", param=param)
    if kind == "union_tag_invalid":
        param = f"{param}.{context['discriminator']}".replace("'", "")
        return _invalid(param, f"give one of {context['expected_tags']}")
    return _invalid(param, _length(kind, context) or "the value is not supported")


def _expected(error: Any, path: Path, schema: type[BaseModel]) -> str:
    """What the field takes; "" if the error is not about that."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return (
            str(context["expected"]).replace("True", "true").replace("False", "false")
        )
    if kind in _NUMBERS:
        names = tuple(step for step in path if isinstance(step, str))
        return _range(schema, names)
    if kind in ("model_type", "model_attributes_type"):
        return _object(schema, context.get("class_name", ""))
    return _TYPES.get(kind, "")


@functools.cache
def _object(schema: type[BaseModel], name: str) -> str:
    """An object and the fields that it must have."""
    model = schema.model_json_schema().get("$defs", {}).get(name, {})
    required = " and ".join(model.get("required", ()))
    return f"an object with {required}" if required else "an object"


def _length(kind: str, context: dict[str, Any]) -> str:
    """The limit on the length of a text or list; "" if `kind` is another error."""
    what = "characters" if kind.startswith("string") else "values"
    if kind.endswith("too_long"):
        most = context["max_length"]
        return f"give at most {most} {what}" if most else "must be empty"
    if kind.endswith("too_short"):
        least = context["min_length"]
        return f"give at least {least} {what if least != 1 else what[:-1]}"
    return ""


@functools.cache
def _range(schema: type[BaseModel], names: tuple[str, ...]) -> str:
    """The numbers that a field takes."""
    whole = schema.model_json_schema()
    number = _numeric(whole, whole, names) or {}
    integer = number.get("type") == "integer"
    low, high = number.get("minimum"), number.get("maximum")
    above, below = number.get("exclusiveMinimum"), number.get("exclusiveMaximum")
    if integer and below is not None:
        high = int(below) - 1
    kind = "a whole number" if integer else "a number"
    if low is not None and high is not None:
        return f"{kind} from {low} to {high}"
    if above is not None and high is not None:
        return f"{kind} above {above} and {high} at most"
    return kind


def _numeric(node: Any, whole: Any, names: Sequence[str]) -> dict[str, Any] | None:
    if "$ref" in node:
        node = whole["$defs"][node["$ref"].rpartition("/")[2]]
    if names and names[0] in node.get("properties", {}):
        return _numeric(node["properties"][names[0]], whole, names[1:])
    for branch in node.get("anyOf", ()):
        if found := _numeric(branch, whole, names):
            return found
    is_number = not names and node.get("type") in ("integer", "number")
    return node if is_number else None


def _client_path(location: Path, data: Any, missing: bool) -> Path:
    """`location` without the names of types and of branches of unions."""
    path: list[int | str] = []
    value, is_tagged = data, False
    for number, step in enumerate(location):
        last = number == len(location) - 1
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) else None
        elif not isinstance(value, dict):
            continue
        elif not last and not is_tagged and step in _tags(value):
            is_tagged = True
            continue
        elif step in value or (last and missing):
            value = value.get(step)
        else:
            continue
        path.append(step)
        is_tagged = False
    return tuple(path)


def _tags(value: dict[str, Any]) -> list[Any]:
    return [value.get(name) for name in ("role", "type")]


def _written(path: Path) -> str:
    """As in `messages[0].content`, printable, 203 characters at most."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _MAX_PATH else f"{text[:_MAX_PATH]}..."


def _invalid(param: str, fault: str) -> APIError:
    return APIError(
        400,
        f"{param or 'the body'}: {fault}",
        code="invalid_value",
        param=param or None,
    )
