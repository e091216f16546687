"""What Tab adds at the prompt: commands, and paths with their spaces escaped.

readline replaces only what stands behind the last space, so nothing here rewrites what
was typed: a completion is the typed text and what is missing behind it.
"""

import os
import re
from collections.abc import Iterator, Sequence

MOST_SPACES = 12  # in a name that is typed without escaping them
# What a shell would read as more than a letter of a name; `line_images` reads names
# as a shell does.
_SPECIAL = re.compile(r"([\s\\'\"])")


def missing(line: str, commands: Sequence[str]) -> list[str]:
    """Everything that can follow `line`, which ends at the cursor."""
    line = line.lstrip()
    found = []
    if line and not re.search(r"\s", line):
        found = [f"{name[len(line) :]} " for name in commands if name.startswith(line)]
    command, _, rest = line.partition(" ")
    if command in commands:
        if line != command:
            found += _paths(rest.lstrip(), empty=True)
    elif line:
        found += _paths(line, empty=False)
    return found


def _paths(text: str, *, empty: bool) -> list[str]:
    """The rests of the paths that begin at the end of `text`."""
    quote, word, typed = _last_word(text)
    if not quote:
        # An unescaped space may be one of the name: /image two wo
        gaps = [gap.end() for gap in re.finditer(r"\s+", text)]
        for start in [0, *gaps][-MOST_SPACES - 1 : len(gaps)]:
            if rests := list(_entries(text[start:])):
                return rests
    if not typed and not empty:
        return []
    rests = list(_entries(word))
    if not quote:
        return [_escaped(rest) for rest in rests]
    if quote == '"':
        rests = [re.sub(r'(["\\])', r"\\\1", rest) for rest in rests]
    # Inside single quotes nothing can stand for a single quote.
    rests = [rest for rest in rests if quote == '"' or "'" not in rest]
    return [rest if rest.endswith("/") else rest + quote for rest in rests]


def _last_word(text: str) -> tuple[str, str, bool]:
    """The open quote, if any, the last word without quotes and escapes, and whether
    there is one."""
    quote, word, typed, escaped = "", "", False, False
    for char in text:
        if escaped:
            # In double quotes a backslash is itself, except before these.
            word += char if not quote or char in '"\\' else "\\" + char
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = typed = True
        elif char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            # An apostrophe inside a word is a letter, at its start a quote.
            if typed and word:
                word += char
            else:
                quote, typed = char, True
        elif char.isspace() and not quote:
            word, typed = "", False
        else:
            word, typed = word + char, True
    return quote, word, typed


def _entries(path: str) -> Iterator[str]:
    """What can follow `path`, in the order of the names; folders end in a slash."""
    folder, start = os.path.split(path)
    try:
        names = sorted(os.listdir(os.path.expanduser(folder) or "."))
    except (OSError, ValueError):
        return
    for name in names:
        hidden = name.startswith(".") and not start
        if hidden or not name.startswith(start) or not name.isprintable():
            continue
        whole = os.path.join(os.path.expanduser(folder), name)
        yield name[len(start) :] + ("/" if os.path.isdir(whole) else "")


def _escaped(rest: str) -> str:
    return _SPECIAL.sub(r"\\\1", rest)
