"""The answers that changed, with their images, as one HTML file.

Nothing is loaded from elsewhere and no script is needed: the images are small JPEGs
within the page, and the buttons that choose what is shown are plain inputs.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image as PILImage

from fastvlm_mlx.app import machine
from fastvlm_mlx.app.evaluation import table
from fastvlm_mlx.app.evaluation.result import Change, Difference
from fastvlm_mlx.data.image_reference import Image
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.evaluation.ask import Answer
from fastvlm_mlx.evaluation.question import Question
from fastvlm_mlx.evaluation.statistics import Comparison
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.output_check import resolve_output
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_source import name_of

SIDE = 520  # pixels of an image's longer side: sharp at twice the width it is shown in
QUALITY = 80
MADE_BY = '<meta name="generator" content="fastvlm-mlx eval">'
_HEAD = 400  # bytes within which a page says who wrote it
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_KINDS = {"lost": "lost", "won": "won", "same": "same score"}


def check_page(path: Path) -> None:
    """Refuses a `path` that `write` could not or must not write, before hours of work.

    Raises:
        OptionError: no HTML file, in no folder, or a file that is no page of ours.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--page {path}: name an .html file")
    place = resolve_output(path)
    if not place.parent.is_dir():
        raise OptionError(
            f"--page {path}: cannot be written (no such folder); name another output"
        )
    if place.is_dir() or (place.exists() and not is_page(place)):
        raise OptionError(
            f"--page {path}: exists and is no page of this program; name another output"
        )


def is_page(path: Path) -> bool:
    """Whether `path` is a file that `write` wrote."""
    try:
        with path.open("rb") as file:
            return MADE_BY.encode() in file.read(_HEAD)
    except OSError:
        return False


def write(path: Path, report: table.Report) -> None:
    """Writes the page of a report that has a difference.

    Raises:
        OptionError: it cannot be written, or replaces what is no page of ours.
    """
    check_page(path)
    with staged_file(path, overwrite=True) as partial, partial.open("wb") as file:
        for part in _parts(report):
            # An answer may hold half an emoji, which is no UTF-8.
            file.write(part.encode("utf-8", "replace"))


def _parts(report: table.Report) -> Iterator[str]:
    difference = report.difference
    assert difference is not None
    first, second = difference.first.name, difference.second.name
    title = f"{report.benchmark.label}: {first} and {second}"
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{MADE_BY}\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
    )
    yield _heading(report, difference)
    if not difference.changes:
        yield "<main><p>No answer differs.</p></main>\n"
    else:
        yield _filter(difference.changes)
        yield "<main>\n"
        for images, changes in _by_image(difference.changes):
            yield _card(images, changes, (first, second))
        yield "</main>\n</div>\n"
    words = f"Metric: {report.benchmark.metric}. Prompt suffix: {report.suffix}."
    if report.machine is not None:
        words += f" {machine.line(report.machine)}"
    yield f"<footer>{escape(words)}</footer>\n</body>\n</html>\n"


def _heading(report: table.Report, difference: Difference) -> str:
    total, first, second = difference.total, difference.first, difference.second
    count = f"{total.count} questions, {len(difference.changes)} answered otherwise"
    own = report.result.tally.total()
    tiles = [
        (first.name, table.per_cent(total.first), _within(table.ends(own.interval))),
        (second.name, table.per_cent(total.second), ""),
        (
            "difference",
            table.points(total.difference),
            _within(table.ends(total.interval, table.points)),
        ),
        (total.test, table.format_p(total.p), f"won {total.won}, lost {total.lost}"),
    ]
    theirs = second.tally.total()
    tiles[1] = (*tiles[1][:2], _within(table.ends(theirs.interval)))
    shown = "".join(
        f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(figure)}'
        f"<small>{escape(note)}</small></dd></div>"
        for name, figure, note in tiles
    )
    return (
        f"<header>\n<h1>{escape(first.name)} <span>against</span>"
        f" {escape(second.name)}</h1>\n"
        f'<p class="about">{escape(report.benchmark.label)}: {count}</p>\n'
        f'<dl class="tiles">{shown}</dl>\n'
        f'<p class="verdict">{escape(table.verdict(difference))}.</p>\n'
        f"{_categories(difference)}</header>\n"
    )


def _within(ends: str) -> str:
    return f"95% interval {ends}"


def _categories(difference: Difference) -> str:
    named = {name: each for name, each in difference.categories.items() if name}
    if len(named) < 2:
        return ""
    head = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for name in (
            *("category", "n", difference.first.name, difference.second.name),
            *("difference", "95% interval"),
        )
    )
    rows = "".join(_category(name, each) for name, each in named.items())
    return (
        f'<details><summary>By category</summary><div class="wide">'
        f'<table class="categories"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>\n"
    )


def _category(name: str, each: Comparison) -> str:
    cells = (
        str(each.count),
        table.per_cent(each.first),
        table.per_cent(each.second),
        table.points(each.difference),
        table.ends(each.interval, table.points),
    )
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{columns}</tr>'


def _filter(changes: Sequence[Change]) -> str:
    """The buttons, beside what they hide and show; without CSS all is shown."""
    counts = {kind: sum(each.kind == kind for each in changes) for kind in _KINDS}
    buttons = [("every", f"All {len(changes)}")]
    buttons += [
        (kind, f"{name.capitalize()} {counts[kind]}")
        for kind, name in _KINDS.items()
        if counts[kind]
    ]
    inputs = "\n".join(
        f'<input type="radio" name="shown" id="{kind}"{" checked" * (not at)}>'
        f'<label for="{kind}">{label}</label>'
        for at, (kind, label) in enumerate(buttons)
    )
    return f'<div class="filter">\n{inputs}\n'


def _by_image(
    changes: Sequence[Change],
) -> Iterator[tuple[Question, list[Change]]]:
    """The changes about the same images together, and a question that has these."""
    groups: dict[object, list[Change]] = {}
    for change in changes:
        groups.setdefault(change.question.images, []).append(change)
    for group in groups.values():
        yield group[0].question, group


def _card(question: Question, changes: Sequence[Change], names: tuple[str, str]) -> str:
    shown = "\n".join(_change(each, names) for each in changes)
    return (
        f'<section class="card">\n<div class="images">{_figures(question)}</div>\n'
        f'<div class="changes">\n{shown}\n</div>\n</section>\n'
    )


def _change(change: Change, names: tuple[str, str]) -> str:
    question = change.question
    tags = [f'<span class="tag kind">{escape(_KINDS[change.kind])}</span>']
    tags += [
        f'<span class="tag">{escape(text)}</span>'
        for text in (question.category, question.id)
        if text
    ]
    expected = " | ".join(dict.fromkeys(question.answers))
    rows = [
        f'<tr><th scope="row">expected</th><td dir="auto">{escape(expected)}</td></tr>',
        _row(names[0], change.first, change.first_mark),
        _row(names[1], change.second, change.second_mark),
    ]
    return (
        f'<article class="change {change.kind}">\n<p class="tags">{"".join(tags)}</p>\n'
        f'<p class="question" dir="auto">{escape(question.text)}</p>\n'
        f'<table class="answers"><tbody>{"".join(rows)}</tbody></table>\n</article>'
    )


def _row(name: str, answer: Answer, mark: float) -> str:
    kind = "right" if mark == 1 else "wrong" if mark == 0 else "part"
    graded = f' data-mark="{mark:.2f}"' if kind == "part" else ""
    text, error = answer.text.strip(), ""
    if answer.error is not None:
        text, error = answer.error, " error"
    return (
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="{kind}{error}"{graded} dir="auto">{escape(text)}</td></tr>'
    )


def _figures(question: Question) -> str:
    try:
        images = question.load_images()
    except FastVLMError as fault:
        return f'<p class="lacking">{escape(str(fault))}</p>'
    return "".join(_figure(image) for image in images)


def _figure(image: Image) -> str:
    name = "" if isinstance(image, bytes) else name_of(image).rpartition("/")[2]
    try:
        small = open_image(image)
    except FastVLMError as fault:
        return f'<p class="lacking">{escape(str(fault))}</p>'
    small.thumbnail((SIDE, SIDE), PILImage.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    caption = f"<figcaption>{escape(name)}</figcaption>" if name else ""
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{escape(name)}"'
        f' width="{small.width}" height="{small.height}" loading="lazy">{caption}'
        "</figure>"
    )
