"""`--run` and `--post`: what they get, and what a model cannot make them do."""

import json
import threading
import time

import pytest

from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.app.watch import action
from fastvlm_mlx.app.watch.action import Action
from tests.support.posted import Reply, posts

NEVER = threading.Event()
# What a model could be talked into saying by an image.
HOSTILE = '$(touch made); `touch made` "; touch made #\n\x1b[2J\0 &"\''
LINE = {
    "source": "camera",
    "model": "demo",
    "probability": 0.75,
    "answer": HOSTILE,
    "fired": True,
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_command_gets_the_line_and_its_fields(here):
    command = (
        'cat > in.json; printf %s "$FASTVLM_ANSWER" > answer;'
        ' echo "$FASTVLM_SOURCE $FASTVLM_PROBABILITY ${FASTVLM_MODEL-none}" > rest'
    )
    assert Action(command).do(LINE, NEVER) is None
    assert json.loads((here / "in.json").read_text()) == LINE
    said = (here / "answer").read_text()
    assert said == HOSTILE.replace("\x1b", " ").replace("\0", " ")
    assert (here / "rest").read_text() == "camera 0.75 none\n"
    assert not (here / "made").exists()


def test_what_a_command_prints_is_no_line(capfd):
    assert Action("echo hello").do(LINE, NEVER) is None
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "hello\n")


def test_commands_that_fail(monkeypatch):
    assert Action("exit 3").do(LINE, NEVER) == "--run: exit code 3"
    assert Action("./no-such-thing 2> /dev/null").do(LINE, NEVER) == (
        "--run: exit code 127"
    )
    # One that reads nothing of a long line, and one that does not end.
    assert Action("true").do({**LINE, "answer": "x" * 500_000}, NEVER) is None
    monkeypatch.setattr(action, "SECONDS", 0.3)
    begun = time.monotonic()
    said = Action("(sleep 60; touch late) & wait").do(LINE, NEVER)
    assert said == "--run: ended, as it took more than 0.3 s"
    assert time.monotonic() - begun < 5


def test_the_end_of_the_watch_waits_a_little(here, monkeypatch):
    stop = threading.Event()
    stop.set()
    assert Action("sleep 0.2; touch done").do(LINE, stop) is None
    assert (here / "done").exists()
    monkeypatch.setattr(action, "PATIENCE", 0.2)
    begun = time.monotonic()
    assert "--run: ended" in str(Action("sleep 60").do(LINE, stop))
    assert time.monotonic() - begun < 5


def test_a_post_is_the_line_as_json():
    with posts() as server:
        assert Action(address=server.url).do(LINE, NEVER) is None
    ((path, headers, body),) = server.received
    assert path == "/hook?a=1"
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == LINE


def test_posts_that_fail():
    with posts(Reply(500)) as server:
        said = Action(address=server.url).do(LINE, NEVER)
        assert said == "--post: the server answered 500"
    said = Action(address=server.url).do(LINE, NEVER)
    assert said is not None and said.startswith("--post: no answer (")


def test_a_redirect_is_not_followed():
    with posts() as other, posts(Reply(302, other.url)) as server:
        said = Action(address=server.url).do(LINE, NEVER)
        assert said == "--post: the server answered 302"
    assert not other.received and len(server.received) == 1


def test_both_are_tried():
    with posts(Reply(404)) as server:
        said = Action("exit 1", server.url).do(LINE, NEVER)
    assert said == "--run: exit code 1; --post: the server answered 404"
    assert not Action() and Action("true")


@pytest.mark.parametrize(
    ("command", "address", "said"),
    [
        (" ", None, "--run is empty; give a command, such as --run 'say hello'"),
        (None, "example.org", "--post example.org: give an http or https address"),
        (None, "file:///etc", "--post file:///etc: give an http or https address"),
        (None, "http://", "--post http://: give an http or https address"),
        (None, "http://a:b", "--post http://a:b: give an http or https address"),
    ],
)
def test_what_cannot_be_meant(command, address, said):
    with pytest.raises(UsageError) as caught:
        Action(command, address)
    assert str(caught.value) == said
