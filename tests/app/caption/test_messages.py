"""What `caption` says at its end, of old lines, and of options that cannot be."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.caption import run
from fastvlm_mlx.app.caption.records import JSONLines, Record
from fastvlm_mlx.app.caption.team import Team
from fastvlm_mlx.app.lines import resume
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.generation.sampling import Sampling


@pytest.mark.parametrize(
    ("images", "seconds", "text"),
    [
        (1, 1.0, "1.0 images/s"),
        (1, 1.25, "1.2 s/image"),
        (3, 0.0, "3000000000.0 images/s"),
        (0, 0.0, "0.0 images/s"),
        (0, 9.0, "0.0 images/s"),
    ],
)
def test_rates_at_their_limits(images, seconds, text):
    assert terminal.format_rate(images, seconds, "image") == text


def summary(capsys, captions: int, failures: int, todo: int) -> list[str]:
    run._summarize(captions, [f"{n}.png: bad" for n in range(failures)], todo, 2.0)
    return capsys.readouterr().err.splitlines()


def test_the_summary(capsys):
    assert summary(capsys, 4, 0, 4) == ["4 images captioned in 2.0 s (2.0 images/s)"]
    assert summary(capsys, 1, 0, 3) == [
        "1 image captioned in 2.0 s (2.0 s/image)",
        "2 images to go; run the same command to go on",
    ]
    assert summary(capsys, 3, 1, 5) == [
        "3 images captioned in 2.0 s (1.5 images/s), 1 failed:",
        "error: 0.png: bad",
        "1 image to go; run the same command to go on",
    ]
    # No rate: nothing was captioned.
    assert summary(capsys, 0, 0, 1)[0] == "0 images captioned in 2.0 s"
    assert summary(capsys, 0, 2, 2)[0] == "0 images captioned in 2.0 s, 2 failed:"


@pytest.mark.parametrize("failures", [10, 11, 13])
def test_ten_failures_are_named(capsys, failures):
    lines = summary(capsys, 0, failures, failures)
    assert len([line for line in lines if line.startswith("error: ")]) == 10
    more = [f"and {failures - 10} more"] if failures > 10 else []
    assert lines[11:] == more


def request(**options: Any) -> run.Request:
    chosen: Any = {
        "paths": (),
        "out": None,
        "form": None,
        "recursive": False,
        "overwrite": False,
        "batch": 1,
        "prompt": "Hi",
        "schema": None,
        "model": None,
        "options": session.ConversationOptions(),
        "sampling": Sampling(),
        "refresh": False,
    }
    return run.Request(**chosen | options)


def test_options_that_cannot_be():
    run.check(request())
    for batch in (0, -1):
        with pytest.raises(session.UsageError, match=f"^--batch {batch}: must be at"):
            run.check(request(batch=batch))
    for prompt in ("", "  \n"):
        with pytest.raises(session.UsageError, match="^'-p' is empty; try -p 'Desc"):
            run.check(request(prompt=prompt))


def test_long_values_are_cut():
    assert resume._short("x" * 98) == f"'{'x' * 98}'"
    assert resume._short("x" * 99) == f"'{'x' * 79}..."
    assert resume._short(None) == "None"


def test_names_of_one_model():
    assert resume._is_same("model", "./a/b/", "a/b")
    assert resume._is_same("model", "0.5B", "apple/FastVLM-0.5B")
    assert not resume._is_same("model", "a/b", "a/c")
    assert not resume._is_same("model", None, "a")
    assert not resume._is_same("prompt", "./a", "a")
    assert resume._is_same("prompt", "a", "a")


def test_lines_and_where_they_begin(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one\n\ntwo" + bytes(9))
    with path.open("rb", buffering=0) as file:
        found = list(resume.lines(cast(Any, file), JSONLines()))
    assert found == [(0, b"one\n"), (4, b"\n"), (5, b"two" + bytes(9))]
    path.write_bytes(b"one\n" + bytes(9))  # zeros that a power cut left
    with path.open("rb", buffering=0) as file:
        found = list(resume.lines(cast(Any, file), JSONLines()))
    assert found == [(0, b"one\n")]


def test_records_follow_the_images():
    """A failed image takes no caption from the next one."""
    outcomes: dict[Any, Any] = {
        "one": SimpleNamespace(content="A", finish_reason="stop"),
        "two": FastVLMError("no whole JSON"),
    }

    def answer(images: Iterator[Any], size: int) -> Iterator[Any]:
        assert size == 4
        # Several are begun before the first has ended.
        return iter([outcomes.get(each, each) for each in images])

    captioner = cast(Any, SimpleNamespace(captions=answer))
    label = {"model": "m", "prompt": "p"}
    images = [("0", FastVLMError("0: bad")), ("1", "one"), ("2", "two")]
    found = list(run.records(captioner, cast(Any, images), label, 4))
    assert [each.image for each in found] == ["0", "1", "2"]
    assert [each.caption for each in found] == [None, "A", None]
    assert [each.error for each in found] == ["0: bad", None, "no whole JSON"]
    assert found[1].finish_reason == "stop" and found[1].model == "m"


def test_progress_says_how_many_images_a_second(monkeypatch):
    """Of the time since the start, whatever the clock said then."""
    clock, shown = iter([1000.0, 1002.0, 1004.0, 1004.0]), []

    @contextmanager
    def progress(what, **options):
        yield lambda done, total, note="": shown.append((done, total, note))

    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(run.terminal, "progress", progress)
    monkeypatch.setattr(run.terminal, "note", lambda text: shown.append(text))
    monkeypatch.setattr(run, "opened_ahead", lambda names, opened, size: names)
    monkeypatch.setattr(run, "records", lambda c, names, *_: map(named, names))
    output = cast(Any, SimpleNamespace(on_terminal=False, write=lambda record: None))

    def named(name: str) -> Record:
        return Record(
            name, model="m", prompt="p", error="b: bad" if name == "b" else None
        )

    assert run._run(cast(Any, None), ["a", "b"], output, request(), {}, Team()) is True
    assert shown == [
        (0, 2, ""),
        (1, 2, "2.0 s/image"),
        (2, 2, "2.0 s/image"),
        "1 image captioned in 4.0 s (4.0 s/image), 1 failed:",
        "error: b: bad",
    ]
