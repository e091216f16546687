"""The conversation in a terminal, driven through a real pseudo-terminal.

Most tests talk to `echo.py`, whose answers are known; the last two to a real model.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest

from fastvlm_mlx.app.chat import line_editor, repl
from tests.support.chat_terminal import BRACKETS, PROMPT, say, start
from tests.support.echo_repl import repl_of_echo


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator[pexpect.spawn]:
    child = start(tmp_path_factory.mktemp("session"))
    yield child
    child.close(force=True)


@pytest.fixture
def terminal(session) -> pexpect.spawn:
    """The conversation at its start."""
    say(session, "/reset")
    return session


def test_it_starts_with_four_lines_of_help(tmp_path):
    child = start(tmp_path)
    before = str(child.before).replace("\r\n", "\n")
    assert before.lstrip("\n") == repl.WELCOME.format(model="echo")
    child.close(force=True)
    assert repl.WELCOME.count("\n") == 3


def test_questions_and_answers(terminal):
    assert say(terminal, "what is this?") == "what is this? "
    assert say(terminal, "and that?") == "and that? "
    assert say(terminal, "   ") == ""


def test_images_by_command_and_by_dragging(terminal, tmp_path):
    plain, spaced = tmp_path / "a.png", tmp_path / "b c.png"
    plain.touch()
    spaced.touch()
    escaped = str(spaced).replace(" ", r"\ ")
    assert say(terminal, f"/image {plain}") == f"added {plain}"
    assert say(terminal, f"/image {escaped}") == f"added {spaced}"
    assert say(terminal, f"/image {spaced}") == f"added {spaced}"
    assert say(terminal, f"/image '{spaced}' {plain}") == (
        f"added {spaced}\nadded {plain}"
    )
    # An image dragged into the window is its path, with a space at the end.
    assert say(terminal, f"{escaped} ") == f"added {spaced}"


def test_an_image_and_a_question_in_one_line(terminal, tmp_path):
    image = tmp_path / "two cats.png"
    image.touch()
    escaped = str(image).replace(" ", r"\ ")
    for typed in (image, escaped, f"'{image}'", f"/image {image}", image.as_uri()):
        assert say(terminal, f"{typed} Which is it?") == (
            f"added {image}\nWhich is it? "
        )
    assert say(terminal, f"Which is it? {escaped} ") == f"added {image}\nWhich is it? "
    address = "https://127.0.0.1/cat"
    session, conversation = repl_of_echo()
    added = []
    conversation.add = lambda image: added.append(image)
    session.obey(f"{address} Which is it?")
    assert added == [address] and conversation.turns[0][0] == "Which is it?"


def test_a_path_is_never_an_unknown_command(terminal, tmp_path):
    missing = tmp_path / "cat.png"
    for line in (f"{missing} Which is it?", f"{missing}", "cat.png", "./cat.png"):
        name = line.split()[0]
        assert say(terminal, line) == f"error: {name}: no such file; check the path"
    # The real conversation says that a folder is no image.
    assert say(terminal, f"{tmp_path} Which?") == f"added {tmp_path}"


def test_several_pasted_lines_are_one_question(terminal):
    pasted = "What is this?\r\rIt may be a number.\rAnswer shortly."
    output = say(terminal, pasted)
    assert output.endswith("What is this?\n\nIt may be a number.\nAnswer shortly. ")
    assert say(terminal, "and that?") == "and that? "


@pytest.mark.parametrize("reads", ["with readline", "without"])
def test_commands_among_pasted_lines_are_obeyed(tmp_path, reads):
    before = "import sys; sys.modules['readline'] = None" if reads == "without" else ""
    child = start(tmp_path, before=before)
    child.send(f"one\rtwo\r/save {tmp_path}/talk.json\rthree\r")
    child.expect_exact("saved ")
    child.expect_exact("three ")
    child.expect_exact(PROMPT)
    child.send("four\r\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved == [["one\ntwo", "one\ntwo"]]


def test_a_terminal_that_brackets_a_paste(tmp_path):
    if line_editor.readline is None or not line_editor.knows_brackets("xterm"):
        pytest.skip("readline without bracketed paste")
    child = start(tmp_path, TERM="xterm")
    assert BRACKETS in str(child.after)
    child.send("\x1b[200~one\rtwo\rthree\x1b[201~")
    child.expect_exact("three")
    # Nothing is asked before Enter, so more can be typed.
    child.send(" four\r")
    child.expect_exact("three four ")
    child.expect_exact("> ")
    child.send("/quit\r")
    child.expect(pexpect.EOF)
    # The next session remembers one line, not three.
    again = start(tmp_path)
    assert say(again, "\x1b[A\x1b[A").endswith("one two three four ")
    again.close(force=True)


@pytest.mark.parametrize("reads", ["with readline", "without"])
def test_what_is_no_text_does_not_end_the_session(tmp_path, reads):
    before = "import sys; sys.modules['readline'] = None" if reads == "without" else ""
    child = start(tmp_path, before=before, PYTHONIOENCODING="utf-8:strict")
    raw: Any = child
    for line in (b"caf\xe9", b"\0", b"a\0b", b"x" * 3000, b"\xff\xfe"):
        os.write(raw.child_fd, line + b"\r")
        time.sleep(0.2)
        child.expect_exact(PROMPT)
    assert say(child, "still there?").endswith("still there? ")
    child.close(force=True)


def test_a_bad_image_keeps_the_session(terminal):
    assert say(terminal, "/image nowhere.png") == (
        "error: nowhere.png: no such file; check the path"
    )
    assert say(terminal, "/image").startswith("error: /image needs a path")
    assert say(terminal, "still there?") == "still there? "


def test_statistics(terminal):
    assert say(terminal, "/stats") == "no answer yet"
    say(terminal, "one two")
    assert say(terminal, "/stats") == (
        "time to first token: 0.250 s (decode 0.050, preprocess 0.025)\n"
        "prompt: 30 tokens, 16 of them visual, 4 cached\n"
        "answer: 2 tokens, 50.0 per second, ended by stop\n"
        "peak memory: 1.5 GB\n"
        "context: 12 of 8192 tokens"
    )


def test_save_reset_and_load(terminal, tmp_path):
    file, image = tmp_path / "talk.json", tmp_path / "cat.png"
    image.write_text("precious")
    say(terminal, "hello")
    assert say(terminal, f"/save {file}") == f"saved {file}"
    assert say(terminal, f"/save {file}") == f"saved {file}"
    assert json.loads(file.read_text()) == [["hello", "hello"]]
    assert "cat.png exists; choose" in say(terminal, f"/save {image}")
    assert image.read_text() == "precious"
    assert say(terminal, "/save").startswith("error: /save takes one file")
    for command in ("/save", "/load"):
        assert say(terminal, f"{command} {tmp_path}/home/") == (
            f"error: {tmp_path}/home/: names a folder; {command} takes a file,"
            f" such as {tmp_path}/home/talk.json"
        )
    assert sorted(os.listdir(tmp_path)) == ["cat.png", "talk.json"]
    spaced = tmp_path / "a b.json"
    assert say(terminal, f"/save {spaced}") == f"saved {spaced}"
    assert say(terminal, f"/load '{spaced}'") == f"loaded {spaced}"
    assert say(terminal, f"/load {spaced}") == f"loaded {spaced}"
    assert say(terminal, "/reset").startswith("started over")
    assert say(terminal, f"/load {file}") == f"loaded {file}"
    missing = tmp_path / "missing.json"
    assert say(terminal, f"/load {missing}") == (
        f"error: {missing}: no such file or directory"
    )


def test_help_and_unknown_commands(terminal):
    for line in ("/help", "/?", "/h"):
        assert say(terminal, line) == repl.HELP
    assert say(terminal, "/frobnicate now") == (
        "unknown command '/frobnicate'; /help lists them"
    )


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(terminal, tmp_path):
    terminal.sendline("count please")
    terminal.expect_exact("5 6 7")
    terminal.sendintr()
    terminal.expect_exact(PROMPT)
    assert say(terminal, "go on") == "go on "
    say(terminal, f"/save {tmp_path / 'talk.json'}")
    first, second = json.loads((tmp_path / "talk.json").read_text())
    assert first[1].startswith("0 1 2") and "999" not in first[1]
    assert second == ["go on", "go on"]


def test_ctrl_c_at_the_prompt_drops_the_line(terminal):
    terminal.send("half a que")
    terminal.expect_exact("half a que")
    # Python's readline misses a signal between a key and its next wait for one.
    time.sleep(0.2)
    terminal.sendintr()
    terminal.expect_exact(PROMPT)
    assert say(terminal, "whole") == "whole "


@pytest.mark.skipif(line_editor.readline is None, reason="Python without readline")
def test_arrow_up_brings_earlier_lines_back(tmp_path):
    terminal = start(tmp_path)
    say(terminal, "first")
    say(terminal, "second")
    assert say(terminal, "\x1b[A\x1b[A").endswith("first ")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    # The next session remembers them.
    again = start(tmp_path)
    assert say(again, "\x1b[A").endswith("first ")
    again.close(force=True)


@pytest.mark.skipif(line_editor.readline is None, reason="Python without readline")
def test_tab_completes_commands_and_paths(terminal, tmp_path):
    (tmp_path / "unmistakable.png").touch()
    assert say(terminal, f"/ima\t{tmp_path}/unmis\t").endswith(
        f"added {tmp_path}/unmistakable.png"
    )


@pytest.mark.parametrize("leave", ["\x04", "/quit\n", "/exit\n", "/q\n", "exit\n"])
def test_leaving(tmp_path, leave):
    terminal = start(tmp_path)
    terminal.send(leave)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_a_real_model(reference, images, tmp_path):
    coffee, rocket = images / "coffee.png", images / "rocket.jpg"
    options = ["-m", str(reference / "llava-mini"), "--max-tokens", "8", "--stats"]
    child = start(tmp_path, "fastvlm_mlx", "chat", str(coffee), *options)
    assert "16 of them visual, 0 cached" in say(child, "Describe the image.")
    follow_up = say(child, "And now?")
    assert re.search("0 of them visual, [1-9]", follow_up)
    assert say(child, "/image nowhere.png").startswith("error: nowhere.png: no such")
    assert say(child, f"/image {rocket}") == f"added {rocket}"
    assert "16 of them visual" in say(child, "Compare the two.")
    assert "ended by length" in say(child, "/stats")
    talk = tmp_path / "talk.json"
    assert say(child, f"/save {talk}") == f"saved {talk}"
    assert say(child, "/reset").startswith("started over")
    assert say(child, f"/load {talk}") == f"loaded {talk}"
    assert "0 of them visual" in say(child, "Go on.")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_with_a_real_model(reference, images, tmp_path):
    image, model = images / "coffee.png", reference / "llava-mini"
    options = ["-m", str(model), "--max-tokens", "8000"]
    child = start(tmp_path, "fastvlm_mlx", "chat", str(image), *options)
    child.sendline("Describe the image.")
    child.expect_exact("Describe the image.\r\n")  # the echo, which is no answer yet
    child.expect(r"\w")
    child.sendintr()
    child.expect_exact(PROMPT)
    assert "ended by cancelled" in say(child, "/stats")
    child.sendline("And now?")
    child.expect_exact("And now?\r\n")
    child.expect(r"\w")
    child.sendintr()
    child.expect_exact(PROMPT)
    assert " 0 cached" not in say(child, "/stats")
    child.close(force=True)
