"""JSON schemas as grammars for constrained answers; imports nothing heavy.

    python -m fastvlm_mlx.generation.json_schema < SCHEMA

prints what is wrong with a schema, if anything. A server checks the schemas of its
clients in such a process: intersections of patterns can take exponential time and
memory before llguidance notices, and a process can be ended.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.installation import install_command
from fastvlm_mlx.files.read_input import read_input
from fastvlm_mlx.files.user_path import expand_user

SECONDS = 3  # of processor time, for the process above
MEMORY = 2 << 30  # bytes of address space, for the process above
_LARGEST = 16 << 20  # bytes of a schema's file

# One form of white space, so that a model cannot spend its tokens on it.
_SPACING = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


def import_llguidance() -> Any:
    """The llguidance module.

    Raises:
        FastVLMError: it is not installed.
    """
    try:
        import llguidance
    except ImportError:
        raise FastVLMError(
            "llguidance: not installed, and JSON answers need it;"
            f" {install_command('serve')}"
        ) from None
    return llguidance


def limits() -> Any:
    """How much work a grammar may make; a third of llguidance's own limits."""
    return import_llguidance().LLParserLimits(
        initial_lexer_fuel=300_000, step_lexer_fuel=60_000, step_max_items=20_000
    )


def grammar_of(schema: Any) -> str:
    """llguidance's grammar for `schema`, or for any JSON object if None.

    Raises:
        OptionError: `schema` is not a JSON object, or holds what JSON cannot.
    """
    schema = {"type": "object"} if schema is None else schema
    if not isinstance(schema, dict):
        raise OptionError("schema: give a JSON object, such as {'type': 'object'}")
    matcher = import_llguidance().LLMatcher
    try:
        text = json.dumps(schema, allow_nan=False)
        return matcher.grammar_from_json_schema(text, overrides=_SPACING)
    except (ValueError, TypeError, RecursionError) as error:
        # Numbers that are none, half of an emoji, hundreds of levels.
        raise schema_error(str(error)) from None


def read_schema(path: str | Path) -> Any:
    """The JSON schema in the file `path`.

    Raises:
        OptionError: it cannot be read, or is no JSON schema that can be followed.
    """
    try:
        data = read_input(expand_user(path), _LARGEST)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OptionError(
            f"{path}: {reason}; give a file that holds a JSON schema"
        ) from error
    if len(data) > _LARGEST:
        raise OptionError(
            f"{path}: more than {_LARGEST >> 20} MB; give a smaller JSON schema"
        )
    try:
        schema = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: not JSON ({error}); give a JSON schema") from None
    check_schema(schema)
    return schema


def check_schema(schema: Any):
    """Checks that llguidance can follow `schema`.

    Raises:
        OptionError: it cannot.
    """
    fault = import_llguidance().LLMatcher.validate_grammar(
        grammar_of(schema), limits=limits()
    )
    if fault and not fault.startswith("WARNING"):
        raise schema_error(fault)


def schema_error(fault: str) -> OptionError:
    """The error for a schema that llguidance finds `fault` with."""
    reason = " ".join(fault.split())
    reason = reason if len(reason) <= 200 else f"{reason[:200]}..."
    return OptionError(f"schema: cannot be followed ({reason}); simplify it")


def main():
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        # Last: macOS refuses it.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        check_schema(json.load(sys.stdin))
    except OptionError as error:
        print(error)


if __name__ == "__main__":
    main()
