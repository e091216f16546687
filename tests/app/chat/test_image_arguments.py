"""The images of `chat` that are no image files: PDF pages, clipboard and screen."""

import json
import os
import sys

import pytest
from PIL import Image

from fastvlm_mlx.app.chat import line_images
from fastvlm_mlx.app.chat import run as chat_run
from fastvlm_mlx.app.chat.pages import parse_pages
from fastvlm_mlx.app.session import UsageError
from tests.support.echo_repl import repl_of_echo
from tests.support.missing_extras import pretend_missing
from tests.support.pdf_files import number_of, numbered_page, pages_of
from tests.support.small_images import encoded

PROMPT = ("-p", "Describe the image.")


@pytest.fixture
def report(tmp_path):
    """A PDF of twenty pages."""
    pages = [numbered_page(number) for number in range(20)]
    return pages_of(tmp_path / "report.pdf", pages)


@pytest.fixture
def shown(run, tiny, monkeypatch):
    """Calls `chat`; what came out, and the numbers of the images that were shown."""
    seen: list[int] = []

    class Conversation:
        model = None

        def answer(self, question, images, sampling, **options):
            from fastvlm_mlx.processing.image_file import open_image

            seen.extend(number_of(open_image(each, long_side=160)) for each in images)
            return iter(())

    monkeypatch.setattr(chat_run, "open_model", lambda name, **options: (name, None))
    monkeypatch.setattr(chat_run.packages, "use_only", lambda *given: None)
    monkeypatch.setattr(chat_run.packages, "use_faster", lambda *given, **more: None)
    monkeypatch.setattr(chat_run, "json_constraint", lambda model, schema: None)
    monkeypatch.setattr(
        chat_run.ConversationOptions,
        "conversation",
        lambda self, model, images=(): Conversation(),
    )

    def call(*arguments: object):
        seen.clear()
        return run("chat", "-m", tiny, *PROMPT, *arguments), list(seen)

    return call


def test_a_page_of_a_pdf(shown, report, tmp_path):
    result, seen = shown(report, "--page", "3")
    assert (result.code, seen) == (0, [2])
    result, seen = shown(report, "--page", "2-4,20")
    assert seen == [1, 2, 3, 19]
    result, seen = shown(f"{report}#page=7")
    assert seen == [6] and "page" not in result.err
    numbered_page(99).save(tmp_path / "photo.png")
    result, seen = shown(tmp_path / "photo.png", report, "--page", "5")
    assert seen == [99, 4]


def test_the_first_page_is_said_to_be_one_of_several(shown, report, tmp_path):
    result, seen = shown(report)
    assert seen == [0]
    first = result.err.splitlines()[0]
    assert first == f"{report}: page 1 of 20; --page N is another one"
    single = pages_of(tmp_path / "one.pdf", [numbered_page(8)])
    result, seen = shown(single)
    assert seen == [8] and "page" not in result.err


def test_pages_that_there_are_not(shown, report, coffee, tmp_path, monkeypatch):
    for arguments, code, said in (
        ((report, "--page", "21"), 1, f"{report}: no page 21; choose 1 to 20"),
        ((coffee, "--page", "2"), 2, "--page: no image here is a PDF; leave it out"),
        (("--page", "2"), 2, "--page: no image here is a PDF; leave it out"),
        ((report, "--page", "x"), 2, "--page x: give a page such as 3, 2-4 or 1,5"),
        ((report, "--page", "1-99"), 2, "--page 1-99: more than 20 pages; give fewer"),
        (("none.pdf", "--page", "1"), 1, "none.pdf: no such file; check the path"),
        (("none.pdf#page=2",), 1, "none.pdf: no such file; check the path"),
    ):
        result, seen = shown(*arguments)
        assert (result.code, result.err, seen) == (code, f"error: {said}\n", [])
    pretend_missing(monkeypatch, "pypdfium2")
    result, _ = shown(report, "--page", "2")
    assert result.err.startswith(f"error: {report}: a PDF, which needs pypdfium2; ")
    assert result.code == 1 and "'pypdfium2>=5.15'" in result.err


@pytest.mark.parametrize("text", ["", "0", "3-2", "1,", "-1", "1-2-3", "9" * 9])
def test_what_is_no_page(text):
    with pytest.raises(UsageError, match="give a page such as 3, 2-4 or 1,5"):
        parse_pages(text)
    assert parse_pages(" 7 , 1-2") == (7, 1, 2)


def test_a_page_in_a_conversation(report, monkeypatch, capsys):
    repl, _ = repl_of_echo()
    repl.add_image(f"{report}#page=3")
    repl.add_image(str(report))
    assert capsys.readouterr().err == (
        f"added {report}#page=3\n"
        f"added {report}, page 1 of 20; {report}#page=2 is the next\n"
    )
    line = f"{report}#page=3 What is it?"
    assert line_images.images_and_question(line) == ([line.split()[0]], "What is it?")


@pytest.fixture
def a_mac(tmp_path, monkeypatch):
    """Makes this look like a Mac whose tools are scripts; the file of their calls."""
    tools = tmp_path / "tools"
    tools.mkdir()
    numbered_page(21).save(tmp_path / "copied.png")
    numbered_page(42).save(tmp_path / "screen.png")
    png = encoded(numbered_page(21), "PNG").hex().upper()
    scripts = {
        "osascript": f'echo "«data PNGf{png}»"',
        # The last argument is the file to write.
        "screencapture": f'for each; do :; done; cp "{tmp_path}/screen.png" "$each"',
    }
    for name, script in scripts.items():
        tool = tools / name
        log = f'echo "{name} $*" >> "{tmp_path}/calls"'
        tool.write_text(f"#!/bin/sh\n{log}\n[ -e {tmp_path}/no ] && exit 1\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "darwin")
    return tmp_path


def test_the_clipboard_and_the_screen_of_a_mac(shown, a_mac, report):
    result, seen = shown("--clipboard")
    assert (result.code, seen) == (0, [21])
    result, seen = shown(report, "--page", "2", "--screen", "--clipboard", "--json")
    assert (result.code, seen) == (0, [1, 21, 42])
    calls = (a_mac / "calls").read_text().splitlines()
    assert {call.split()[0] for call in calls} == {"osascript", "screencapture"}
    assert all(call.split()[1] == "-x" for call in calls if "screencap" in call)


def test_the_names_in_json(run, tiny, a_mac):
    arguments = ("-m", tiny, *PROMPT, "--json")
    for option in ("--clipboard", "--screen"):
        result = run("chat", *arguments, "--max-tokens", "4", option)
        assert result.code == 0, result.err
        assert json.loads(result.out)["images"] == [option[2:]]
    result = run("chat", *arguments, "--clipboard", "--choices", "yes,no")
    assert json.loads(result.out)["images"] == ["clipboard"]


def test_a_mac_that_has_no_image_or_does_not_let_us_see(shown, a_mac):
    (a_mac / "no").touch()
    result, _ = shown("--clipboard")
    assert result == (
        1,
        "",
        "error: clipboard: holds no image; copy one, or press Ctrl-Shift-Command-4\n",
    )
    result, _ = shown("--screen")
    assert result.code == 1 and result.err.startswith("error: screen: cannot be capt")
    assert result.err.endswith(
        "let the terminal record the screen in System Settings, Privacy & Security\n"
    )


def test_a_clipboard_that_holds_no_png(shown, a_mac):
    tool = a_mac / "tools" / "osascript"
    tool.write_text("#!/bin/sh\necho nonsense\n")
    result, _ = shown("--clipboard")
    assert result.code == 1 and "error: clipboard: cannot be read (" in result.err


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has both")
@pytest.mark.parametrize("option", ["--clipboard", "--screen"])
def test_elsewhere_one_line(shown, option):
    result, seen = shown(option)
    assert (result.code, seen) == (1, [])
    assert result.err.startswith(f"error: {option}: works on a Mac alone; ")
    assert result.err.count("\n") == 1


def test_a_capture_is_an_image(a_mac):
    from fastvlm_mlx.app.chat import capture

    assert isinstance(capture.screen(), Image.Image)
    assert number_of(capture.clipboard()) == 21
