"""Writes docs/api.md from the docstrings of the public API, read by griffe.

    python -m tests.support.make_api_page

Public is what `__all__` of `fastvlm_mlx`, `fastvlm_mlx.train` and
`fastvlm_mlx.evaluation` list, and `EXTRA`.
Nothing is imported: griffe reads the source, so the page does not depend on the
machine.
"""

import inspect
import logging
import re
from collections.abc import Iterator
from functools import cache

import griffe

import fastvlm_mlx
import fastvlm_mlx.evaluation
import fastvlm_mlx.processing.video
import fastvlm_mlx.train
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "api.md"
# Public, but not exported from the package: `convert` there would hide the folder.
CONVERT = (
    "fastvlm_mlx.convert.to_mlx.convert",
    "fastvlm_mlx.convert.to_mlx.Report",
)
TRAIN = tuple(
    f"fastvlm_mlx.train.{name}"
    for name in fastvlm_mlx.train.__all__
    if name != "write_adapter"  # among the adapters
)
EVALUATION = tuple(
    f"fastvlm_mlx.evaluation.{name}"
    for name in fastvlm_mlx.evaluation.__all__
    if name != "METRICS"  # a dictionary; docs/eval-data.md lists its keys
)
ADAPTERS = (
    "fastvlm_mlx.adapters.files.read_adapter",
    "fastvlm_mlx.adapters.files.write_adapter",
    "fastvlm_mlx.adapters.apply.attach",
    "fastvlm_mlx.adapters.apply.with_adapter",
    "fastvlm_mlx.adapters.merge.merge",
    "fastvlm_mlx.adapters.files.Adapter",
    "fastvlm_mlx.adapters.spec.AdapterSpec",
)
VIDEO = tuple(
    f"fastvlm_mlx.processing.video.{name}"
    for name in fastvlm_mlx.processing.video.__all__
)
EXTRA = (*CONVERT, *ADAPTERS)
GROUPS = {
    "Load and ask": ("load", "generate", "stream_generate", "FastVLM", "Conversation"),
    "Answers and options": (
        *("Chunk", "TokenLogprob", "Choice", "Timings"),
        *("Sampling", "ImageOptions", "Attachment", "Turn"),
    ),
    "The network": ("FastVLMModel",),
    "Video": VIDEO,
    "Train": TRAIN,
    "Evaluate": EVALUATION,
    "Adapters": ADAPTERS,
    "Convert": CONVERT,
    "Errors": (
        *("FastVLMError", "AdapterError", "CheckpointError", "ContextError"),
        *("DataError", "DownloadError", "ImageError", "OptionError", "ServerError"),
        "TrainingError",
    ),
}
HEAD = """# Python API

Written by `python -m tests.support.make_api_page` from the docstrings. Do not edit.

Import every name from `fastvlm_mlx`, except those shown with their module. The package
loads a name at its first use, so `import fastvlm_mlx` does not load MLX.
"""

WIDTH = 80
# griffe reads a section only after an empty line; the docstrings have none there.
SECTION = re.compile(r"(?<!\n)\n(Args|Raises|Returns|Shapes):\n")

Member = griffe.Function | griffe.Class | griffe.Attribute


def public_names() -> list[str]:
    """Every name the page must have, `fastvlm_mlx.` left out; `__version__` is none."""
    exported = [name for name in fastvlm_mlx.__all__ if name != "__version__"]
    return [*exported, *TRAIN, *EVALUATION, *VIDEO, *EXTRA]


@cache
def load_package() -> griffe.Module:
    """The package as griffe reads it, `fastvlm_mlx.convert` and `.app` included."""
    logging.getLogger("griffe").setLevel(logging.ERROR)
    package = griffe.load(
        "fastvlm_mlx",
        search_paths=[ROOT],
        docstring_parser="google",
        allow_inspection=False,
    )
    assert isinstance(package, griffe.Module)
    return package


def find(package: griffe.Module, name: str) -> Member:
    """The object behind an exported name or a full path.

    Raises:
        KeyError: there is none.
    """
    found = package[name.removeprefix("fastvlm_mlx.")]
    if isinstance(found, griffe.Alias):
        found = found.final_target
    assert isinstance(found, griffe.Function | griffe.Class | griffe.Attribute)
    return found


def parameters(member: Member) -> list[griffe.Parameter]:
    """The parameters of a call of a function or class, private ones left out."""
    if isinstance(member, griffe.Attribute):
        return []
    return [
        one
        for one in member.parameters
        if one.name not in ("self", "cls") and not one.name.startswith("_")
    ]


def public_members(member: Member) -> list[Member]:
    """A class's own public methods and properties, in the order of the source."""
    if not isinstance(member, griffe.Class):
        return []
    members = [
        child
        for name, child in member.members.items()
        if (not name.startswith("_") or name == "__call__")
        and isinstance(child, griffe.Function | griffe.Attribute)
        and child.docstring is not None
    ]
    return sorted(members, key=lambda child: child.lineno or 0)


@cache
def page() -> str:
    """The whole page as Markdown."""
    package = load_package()
    shown = [name for names in GROUPS.values() for name in names]
    groups = dict(GROUPS)
    if rest := [name for name in public_names() if name not in shown]:
        groups["Other"] = tuple(rest)
    parts = [HEAD]
    for title, names in groups.items():
        parts.append(f"\n## {title}\n")
        for name in names:
            parts += describe(name, find(package, name))
    return "".join(parts)


def describe(name: str, member: Member) -> Iterator[str]:
    """The section of one name: heading, signature, docstring, then its methods."""
    short = name.rpartition(".")[2]
    yield f"\n### {short}\n"
    if name != short:
        yield f"\n`from {name.rpartition('.')[0]} import {short}`\n"
    bases = [str(base) for base in getattr(member, "bases", ())]
    if bases:
        yield f"\nBase: {', '.join(f'`{base}`' for base in bases)}.\n"
    if any(str(base).endswith("Error") or base == "Exception" for base in bases):
        yield from documentation(member)
        return
    yield f"\n```python\n{signature(short, member)}\n```\n"
    yield from documentation(member)
    for child in public_members(member):
        label = "property " if isinstance(child, griffe.Attribute) else ""
        yield f"\n#### {short}.{child.name}\n"
        yield f"\n```python\n{label}{signature(child.name, child)}\n```\n"
        yield from documentation(child)


def signature(name: str, member: Member) -> str:
    """A call as Python writes it, one parameter a line if it is long."""
    if isinstance(member, griffe.Attribute):
        return f"{name}: {member.annotation}" if member.annotation else name
    shown: list[str] = []
    star = False
    for parameter in parameters(member):
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            star = True
            shown.append("*")
        annotation = f": {parameter.annotation}" if parameter.annotation else ""
        default = parameter.default
        equals = " = " if annotation else "="
        shown.append(
            f"{parameter.name}{annotation}"
            + (f"{equals}{default}" if default is not None else "")
        )
    result = getattr(member, "returns", None)
    arrow = f" -> {result}" if isinstance(member, griffe.Function) and result else ""
    line = f"{name}({', '.join(shown)}){arrow}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){arrow}"


def documentation(member: Member) -> Iterator[str]:
    """The docstring's sections as Markdown."""
    if member.docstring is None:
        return
    text = SECTION.sub(r"\n\n\1:\n", member.docstring.value)
    docstring = griffe.Docstring(text, parent=member)
    for section in docstring.parse("google", warnings=False):
        match section:
            case griffe.DocstringSectionText():
                yield f"\n{section.value}\n"
            case griffe.DocstringSectionParameters():
                yield "\nArguments:\n\n"
                for one in section.value:
                    yield f"- `{one.name}`: {one_line(one.description)}\n"
            case griffe.DocstringSectionAttributes():
                yield "\nFields:\n\n"
                for one in section.value:
                    yield f"- `{one.name}`: {one_line(one.description)}\n"
            case griffe.DocstringSectionRaises():
                yield "\nRaises:\n\n"
                for one in section.value:
                    errors = str(one.annotation).strip("()")
                    yield f"- `{errors}`: {one_line(one.description)}\n"
            case griffe.DocstringSectionReturns():
                text = "; ".join(one_line(one.description) for one in section.value)
                yield f"\nReturns: {text}\n"
            case griffe.DocstringSectionAdmonition():
                body = inspect.cleandoc(section.value.description)
                yield f"\n{section.title}:\n\n```\n{body}\n```\n"
            case _:
                raise ValueError(f"{member.path}: a section {section.kind.value!r}")


def one_line(text: str) -> str:
    """A description without its line breaks."""
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
