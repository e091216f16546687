"""`caption`: what is found, what is answered, what a terminal shows."""

import re
import sys
import time

import pexpect
import pytest

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.caption import run
from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from fastvlm_mlx.app.caption.find_images import find
from fastvlm_mlx.errors import ContextError, ImageError, OptionError
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]
PROMPT = "Describe the image."


def test_folders_patterns_and_files_in_order(folder, monkeypatch):
    (folder / "notes.txt").write_text("no image")
    (folder / "._1.png").write_bytes(b"what macOS leaves behind")
    (folder / "deep").mkdir()
    make_image(0).save(folder / "deep" / "0.JPG")
    numbered = [f"{seed}.png" for seed in range(1, 13)]
    monkeypatch.chdir(folder)
    assert find(["."]) == numbered
    assert find(["."], recursive=True) == [*numbered, "deep/0.JPG"]
    assert find(["1*.png"]) == ["1.png", "10.png", "11.png", "12.png"]
    assert find(["**/*"]) == [
        *sorted(numbered, key=lambda n: int(n[:-4])),
        "deep/0.JPG",
    ]
    assert find(["2.png", str(folder), "./2.png"])[:2] == [
        "2.png",
        str(folder / "1.png"),
    ]
    assert find(["notes.txt", "http://x/y"]) == ["notes.txt", "http://x/y"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lost.png", "lost.png: no such file or folder"),
        ("*.gif", "*.gif: no images match"),
        ("hollow", "hollow: no images in this folder; -r looks into its folders too"),
    ],
)
def test_a_name_that_stands_for_nothing(folder, monkeypatch, caption, name, message):
    monkeypatch.chdir(folder)
    (folder / "hollow").mkdir()
    assert caption(name, code=1) == ("", f"error: {message}\n")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 1},
        {"stop": (" and", "e")},
        {"temperature": 0.8, "seed": 3, "top_p": 0.9},
        {"repetition_penalty": 1.3},
    ],
)
def test_a_batch_answers_as_chat_does(tiny_model, options):
    options = {"max_tokens": 12, **options}
    captioner = Captioner(
        tiny_model, PROMPT, ImageOptions.of(tiny_model.config), Sampling(**options)
    )
    images = [make_image(seed) for seed in range(9)]
    pixels = [captioner.pixels(image) for image in images]  # type: ignore
    expected = []
    for image in images:
        *_, last = chunks = list(tiny_model.stream(PROMPT, image, **options))
        text = "".join(chunk.text for chunk in chunks).strip()
        expected.append(Caption(text, last.finish_reason))
    for size in (4, 9):
        assert list(captioner.captions(pixels, size)) == expected
    assert list(captioner.captions(pixels[:1], 4)) == expected[:1]
    assert list(captioner.captions([], 4)) == []


def test_the_earliest_of_two_stop_sequences(tiny_model):
    """Both appear with one token; the order they are given in means nothing."""
    image = make_image(3)
    chunks = [c.text for c in tiny_model.stream(PROMPT, image, max_tokens=12)]
    text = "".join(chunks)
    at, piece = next((n, c) for n, c in enumerate(chunks) if at_first(chunks, n, c))
    first, second = piece[-3:-1], piece[-1:]
    start = len("".join(chunks[:at])) + len(piece) - 3
    assert text.find(first) == start < text.find(second)
    for stop in ((first, second), (second, first)):
        captioner = Captioner(
            tiny_model,
            PROMPT,
            ImageOptions.of(tiny_model.config),
            Sampling(max_tokens=12, stop=stop),
        )
        pixels = captioner.pixels(image)  # type: ignore
        found = list(captioner.captions([pixels], 1))
        assert found == [Caption(text[:start].strip(), "stop")]


def at_first(chunks: list[str], at: int, piece: str) -> bool:
    """Whether the last three letters of a piece are nowhere before it."""
    before, end = "".join(chunks[:at]) + piece[:-3], piece[-3:]
    return (
        len(piece) > 3
        and end[:2] not in before + end[0]
        and end[2] not in (before + end[:2])
    )


def test_views_and_context(tiny_model, images):
    view = {"tiles": (1, 2), "fit": "crop"}
    captioner = Captioner(
        tiny_model,
        PROMPT,
        ImageOptions.of(tiny_model.config, **view),
        Sampling(max_tokens=5),
        system="",
    )
    image = open_image(images / "coffee.png")
    pixels = captioner.pixels(image)  # type: ignore
    assert len(pixels) == 3
    (found,) = captioner.captions([pixels], 1)
    assert isinstance(found, Caption)
    assert (
        found.content
        == tiny_model.ask(PROMPT, image, max_tokens=5, system="", **view).strip()
    )
    # Prompts of several lengths, and an image that could not be opened, in one batch.
    fault = ImageError("1.png: not an image")
    found = list(captioner.captions([pixels, fault, pixels[:1], pixels], 4))
    assert found[0] == found[3] != found[2] and found[1] is fault
    captioner._context_size = 20
    (found,) = captioner.captions([pixels], 1)
    assert isinstance(found, ContextError)


def test_images_are_opened_in_order_and_ahead():
    opened: list[str] = []

    def open_one(name: str) -> str:
        opened.append(name)
        if name == "d":
            raise OptionError("d: bad")
        return name.upper()

    images = run.opened_ahead(list("abcdefg"), open_one, 3)  # type: ignore
    assert next(images) == ("a", "A")
    deadline = time.monotonic() + 5
    while len(opened) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened == list("abcd")
    rest = list(images)
    assert [name for name, _ in rest] == list("bcdefg")
    assert rest[1] == ("c", "C") and isinstance(rest[2][1], OptionError)


@pytest.mark.parametrize(
    ("images", "seconds", "text"),
    [
        (0, 2.0, "0.0 images/s"),
        (10, 4.0, "2.5 images/s"),
        (2, 8.0, "4.0 s/image"),
    ],
)
def test_rates(images, seconds, text):
    assert terminal.format_rate(images, seconds, "image") == text


def test_a_bar_on_a_terminal(folder, tiny, tmp_path):
    """The bar shows how many, how fast, how long; Ctrl-C ends with a line each."""
    code = "from fastvlm_mlx.app import cli; cli.main()"
    arguments = ["-c", code, "caption", str(folder), "-o", str(tmp_path / "a.jsonl")]
    arguments += ["-m", tiny, "--max-tokens", "30", "--batch", "1"]
    child = pexpect.spawn(
        sys.executable, arguments, timeout=20, encoding="utf-8", dimensions=(24, 100)
    )
    child.expect(r"captioning[^\r]*[1-9]\d?/12[^\r]*image[^\r]* left")
    child.sendintr()
    child.expect(r"(\d+) images? captioned in [^\r]*\r\n(\d+) images? to go")
    assert isinstance(child.match, re.Match)
    done, left = map(int, child.match.groups())
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    written = (tmp_path / "a.jsonl").read_text()
    assert done + left == 12 and written.count("\n") == done
