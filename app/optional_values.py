"""Options whose value may be left out, as in `--keep-features` and
`--keep-features 2GB`.

Typer has none. What follows such an option on the command line is its value only if it
looks like one; otherwise the option gets its usual value.
"""

import re
from collections.abc import Sequence

# The usual value, and what a value looks like.
_OPTIONS = {
    "--keep-features": ("1GB", re.compile(r"\d+(\.\d+)?\s*[kmgt]b", re.I)),
    "--http": ("127.0.0.1:8080", re.compile(r"[^-].*", re.S)),
}


def with_values(arguments: Sequence[str]) -> list[str]:
    """The command line with a value behind each of these options."""
    found = list(arguments)
    for at, text in enumerate(arguments):
        if text == "--":  # files follow
            break
        if text in _OPTIONS:
            usual, value = _OPTIONS[text]
            following = found[at + 1] if at + 1 < len(found) else ""
            if not value.fullmatch(following):
                found[at] = f"{text}={usual}"
    return found
