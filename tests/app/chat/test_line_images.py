"""Images in a typed line: which words name them, and which are the question."""

import os
from pathlib import Path

import pytest

from fastvlm_mlx.app.chat import line_images


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to work in, and the home, with files of many names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("cat.png", "a b.jpg", "Anna's (2).png", "notes.txt", "what", "é.webp"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "typed",
    [
        "cat.png",
        "./cat.png",
        "~/cat.png",
        "'cat.png'",
        '"cat.png"',
        "{place}/cat.png",
        "file://{place}/cat.png",
        "FILE://localhost{place}/cat.png",
        "a b.jpg",
        r"a\ b.jpg",
        "'a b.jpg'",
        "~/a b.jpg",
        r"{place}/a\ b.jpg",
        "'{place}/a b.jpg'",
        "file://{place}/a%20b.jpg",
        "Anna's (2).png",
        r"{place}/Anna\'s\ \(2\).png",
        r"'{place}/Anna'\''s (2).png'",
        "{place}/é.webp",
        "file://{place}/%C3%A9.webp",
        "{place}/notes.txt",
        "{place}/what",
        "https://example.org/cat",
        "HTTP://example.org/a.png?b=c",
    ],
)
def test_one_image_alone_and_before_a_question(place, typed):
    typed = typed.format(place=place)
    (alone,), question = line_images.images_and_question(typed + " ")
    assert question == ""
    assert "://" in alone or Path(alone).expanduser().is_file()
    for words in ("What is it?", "what\n\n is  it?", "is it 'red'? isn't it?"):
        assert line_images.images_and_question(f" {typed} {words}") == ([alone], words)


def test_several_images(place):
    line = f"cat.png 'a b.jpg' {place}/é.webp Which is larger?"
    assert line_images.images_and_question(line) == (
        ["cat.png", "a b.jpg", f"{place}/é.webp"],
        "Which is larger?",
    )
    pasted = "cat.png\na b.jpg\nWhich is larger?"
    assert line_images.images_and_question(pasted) == (
        ["cat.png", "a b.jpg"],
        "Which is larger?",
    )


def test_an_image_behind_the_question(place):
    found = line_images.images_and_question(f"Which is it? {place}/a\\ b.jpg ")
    assert found == ([f"{place}/a b.jpg"], "Which is it?")
    found = line_images.images_and_question(f"Is it in '{place}/cat.png'?")
    assert found == ([f"{place}/cat.png"], "Is it in")
    found = line_images.images_and_question(f"{place}/cat.png, what is it?")
    assert found == ([f"{place}/cat.png"], "what is it?")


@pytest.mark.parametrize(
    "line",
    [
        "what",  # a file, but a word before all
        "what is it?",
        "notes.txt",
        "is it cat.png?",
        "what is in {place}/notes.txt",
        "what is https://example.org/cat",
        "no.png",
        "{place}/no.png what?",
        "~nobody/cat.png",
        "'",
        '"cat.png',
        "\\",
        "\0",
        "x" * 100_000,
        "/" * 5000,
        "a " * 50_000 + "b",
    ],
)
def test_what_is_left_alone(place, line):
    line = line.format(place=place)
    assert line_images.images_and_question(line) == ([], line)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("a.png", ["a.png"]),
        ("a.png b.png", ["a.png", "b.png"]),
        (r"a\ b.png", ["a b.png"]),
        ("'a b.png' \"c d.png\"", ["a b.png", "c d.png"]),
        ("Anna's cat.png", ["Anna's cat.png"]),
        ("~/a.png", [os.path.expanduser("~/a.png")]),
        ("", []),
    ],
)
def test_file_names_in_a_line(typed, names):
    assert line_images.names(typed) == names


def test_words_that_must_be_paths(place):
    for text in ("/no/cat what", "/no.png", "./no.png", f"{place} what", "no.PNG x"):
        assert line_images.is_path(text)
    for text in ("/help", "/", "//", "what", "and/or", "3.14"):
        assert not line_images.is_path(text)


def test_suffixes_of_images():
    for name in ("a.png", "A.JPEG", "a.heic", "a.tga", "a.jfif"):
        assert line_images.looks_like_an_image(name)
    for name in ("a", ".png", "a.", "a.txt", "png", "v1.5"):
        assert not line_images.looks_like_an_image(name)
