"""`caption --preset`: what is kept of an answer, and that nothing is added to it."""

import contextlib
import inspect
import re
import time
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from fastvlm_mlx.app.caption.presets import ALT_TEXT, PRESETS, TAGS
from fastvlm_mlx.app.commands import caption as command
from fastvlm_mlx.errors import FastVLMError
from tests.support.caption_lines import lines
from tests.support.captions import captions_by

pytest_plugins = ["tests.support.caption_runs"]

LONG = (
    "The image features a large red double-decker bus that is driving down a busy"
    " street in the centre of London, with many people and shops on both sides of it."
)


def result(name: str, answer: str, *, cut: bool = False):
    return PRESETS[name].result(answer, cut=cut)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("The image shows a cat on a chair.", "A cat on a chair."),
        ("A picture of a dog", "A dog"),
        ("an image showing that it rains", "It rains"),
        ("This is a photo of two men.", "Two men."),
        ("In this image, we can see a cat. It sleeps.", "A cat. It sleeps."),
        ("The image is a photograph of the sea.", "The sea."),
        ("The image is blurry.", "The image is blurry."),
        ("A painting of a cat", "A painting of a cat"),
        ("Image of", "Image of"),  # nothing would be left
        ("imagery of war", "imagery of war"),
        (' **Alt text:** "A\n cat."', "A cat."),
        ('"Stop" and "Go"', '"Stop" and "Go"'),
        (
            LONG,
            "A large red double-decker bus that is driving down a busy street in the"
            " centre of London",
        ),
        ("Two cats. " + "x" * 116, "Two cats."),
        ("Two cats. " + "x" * 115, "Two cats. " + "x" * 115),
        ("Mr. Smith " + "runs and " * 20, "Mr. Smith " + "runs and " * 12 + "runs"),
        ("猫" * 300, "猫" * ALT_TEXT),
        ("一只猫。" + "狗" * 300, "一只猫。"),
        ("e" + "\u0301" * 3, "e\u0301\u0301\u0301"),
        ("a" * 124 + "e\u0301e", "a" * 124),
    ],
)
def test_alt_text(answer, kept):
    assert result("alt-text", answer) == kept


def test_endless_marks_take_no_time():
    """A model that repeats itself; a pattern that backtracks would take for ever."""
    for mark in "-, *_`.!\"'(":
        for answer in (
            mark * 400 + "x",
            f"a {mark * 119}x{mark * 400}",
            f"{mark} " * 300,
        ):
            begun = time.monotonic()
            for name in PRESETS:
                for cut in (False, True):
                    with contextlib.suppress(FastVLMError):
                        result(name, answer, cut=cut)
            assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("A cat. It sle", "A cat."),
        ("A cat on a cha", "A cat"),
        ("A cat.", "A cat."),
        ("Cat", "Cat"),
    ],
)
def test_an_answer_without_an_end(answer, kept):
    assert result("alt-text", answer, cut=True) == kept


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab .,!?\n\"'é\u0301猫-The image shows*"), max_size=400))
def test_the_budget_is_held_and_nothing_is_invented(answer):
    try:
        kept = result("alt-text", answer)
    except FastVLMError:
        return
    assert 0 < len(kept) <= ALT_TEXT and "\n" not in kept
    # A part of the answer, but for its white space, marks and first letter.
    plain = re.sub(r"\s+|\*\*|__|`", "", answer).lower()
    assert re.sub(r"\s+|\*\*|__|`", "", kept).lower() in plain


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Cat, dog, cat, Dog.", ["cat", "dog"]),
        ("1. Cat\n2. The dog\n- #tree; and sky", ["cat", "dog", "tree", "sky"]),
        ("The image shows a cat, black and white", ["cat", "black and white"]),
        ("Tags: cat, 35 mm, 1984", ["cat", "35 mm", "1984"]),
        ("猫、犬，空", ["猫", "犬", "空"]),
        ("one, a sentence that is no tag at all, two", ["one", "two"]),
        (
            ", ".join(map(str, range(100, 200))),
            [str(n) for n in range(100, 100 + TAGS)],
        ),
    ],
)
def test_tags(answer, kept):
    assert result("tags", answer) == kept


def test_half_a_tag_is_no_tag():
    assert result("tags", "cat, dog, tre", cut=True) == ["cat", "dog"]
    assert result("tags", "cat", cut=True) == ["cat"]


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ('**Title:** "A Red Sign."', "A Red Sign"),
        ("A Red Sign\n\nIt says 45.", "A Red Sign"),
        ("# The Old Town of St.", "The Old Town of St."),
        ("Where?", "Where?"),
        ("Long " * 40, ("Long " * 16).strip()),
    ],
)
def test_title(answer, kept):
    assert result("title", answer) == kept


def test_nothing_in_an_answer():
    with pytest.raises(FastVLMError, match="--preset tags: no tags in the answer"):
        result("tags", "this is a sentence of many words and no tag")
    with pytest.raises(FastVLMError, match="no text in the answer.*ask in your own"):
        result("alt-text", " \n ")


@pytest.fixture
def answering(caption, monkeypatch):
    """`caption` with a model that answers `texts` in turn; returns both."""
    texts: list[str] = []

    def answer(captioner: Captioner, pixels: np.ndarray) -> Caption:
        return Caption(texts.pop(0), "stop")

    monkeypatch.setattr(Captioner, "captions", captions_by(answer))
    return caption, texts


def test_every_form_and_a_resume(folder, answering, tmp_path):
    caption, texts = answering
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    for name in ("a.jsonl", "a.csv"):
        out = tmp_path / name
        texts[:] = ["Cat, dog", "no tag " * 9]
        _, err = caption(folder, "--preset", "tags", "-o", out, code=1)
        assert "error: --preset tags: no tags in the answer" in err
        texts[:] = ["Sky, a tree"]
        _, err = caption(folder, "--preset", "tags", "-o", out)
        assert err.startswith("1 of 2 images have captions already\n1 image captioned")
    first, second = lines(tmp_path / "a.jsonl")
    assert (first["caption"], second["caption"]) == (["cat", "dog"], ["sky", "tree"])
    assert first["preset"] == second["preset"] == "tags"
    assert first["prompt"] == PRESETS["tags"].prompt
    table = (tmp_path / "a.csv").read_text().splitlines()
    assert table[0] == "image,caption,finish_reason,error,model,prompt,preset"
    assert ',"cat, dog",stop,,' in table[1] and table[2].endswith(",tags")
    texts[:] = ["The image shows a cat.", "A dog"]
    caption(folder, "--preset", "alt-text", "--format", "txt")
    assert [p.read_text() for p in sorted(folder.glob("*.txt"))] == [
        "A cat.\n",
        "A dog\n",
    ]


def test_a_preset_is_part_of_what_a_resume_compares(folder, quick, tmp_path):
    tagged, plain = tmp_path / "tags.jsonl", tmp_path / "plain.jsonl"
    quick(folder / "1.png", "-o", tagged, "--preset", "title")
    quick(folder / "1.png", "-o", plain, "-p", PRESETS["title"].prompt)
    _, err = quick(
        folder / "1.png", "-o", tagged, "-p", PRESETS["title"].prompt, code=1
    )
    assert err == (
        f"error: {tagged}: holds captions of preset 'title'; choose another -o, or use"
        " --overwrite to begin anew\n"
    )
    _, err = quick(folder / "1.png", "-o", plain, "--preset", "title", code=1)
    assert f"{plain}: holds captions of no preset; choose another -o" in err
    _, err = quick(folder / "1.png", "-o", tagged, "--preset", "tags", code=1)
    assert "holds captions of preset 'title'" in err
    for form in ("csv", "tsv"):
        quick(
            folder / "1.png", "-o", tmp_path / "t", "--preset", "tags", "--format", form
        )
        _, err = quick(folder / "1.png", "-o", tmp_path / "t", "--format", form, code=1)
        assert "has other columns than captions have" in err
        quick(folder / "1.png", "-o", tmp_path / "t", "--overwrite")
        (tmp_path / "t").unlink()


@pytest.mark.parametrize("other", [("-p", "What?"), ("--schema", "s.json")])
def test_two_questions_are_refused(folder, quick, other):
    _, err = quick(folder, "--preset", "tags", *other, code=2)
    assert err == (
        f"error: --preset tags: asks its own question; leave out {other[0]}, or"
        " --preset\n"
    )


def test_a_preset_needs_no_long_answer(folder, caption, monkeypatch):
    seen: list[int] = []

    def answer(captioner: Captioner, pixels: np.ndarray) -> Caption:
        seen.append(captioner.sampling.max_tokens)
        return Caption("A cat.", "stop")

    monkeypatch.setattr(Captioner, "captions", captions_by(answer))
    caption(folder / "1.png", "--preset", "title", "--max-tokens", "500")
    caption(folder / "1.png", "--preset", "title", "--max-tokens", "5")
    caption(folder / "1.png", "--max-tokens", "500")
    assert seen == [32, 5, 500]


def test_the_command_offers_every_preset():
    offered = inspect.signature(command.caption).parameters["preset"].annotation
    assert get_args(get_args(get_args(offered)[0])[0]) == tuple(PRESETS)
    for name, preset in PRESETS.items():
        assert preset.name == name and preset.prompt.strip()
