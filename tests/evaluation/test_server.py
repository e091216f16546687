"""Servers that are asked: ours, and stand-ins that fail in every way."""

import base64
import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fastvlm_mlx.errors import OptionError, ServerError
from fastvlm_mlx.evaluation import read_benchmark
from fastvlm_mlx.evaluation import server as asking
from fastvlm_mlx.evaluation.ask import Answer
from fastvlm_mlx.evaluation.question import Question
from fastvlm_mlx.evaluation.server import ask_server, base_address
from tests.support.eval_sets import make_set
from tests.support.pdf_files import number_of, numbered_page, pages_of
from tests.support.stand_in_server import (
    Reply,
    StandIn,
    completion,
    question_in,
    standing_in,
)

pytest.importorskip("openai")


@pytest.fixture
def questions(tmp_path: Path) -> tuple[Question, ...]:
    return read_benchmark(make_set(tmp_path / "set", 6)).questions


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch):
    """The client waits half a second before it tries again."""
    from openai import _base_client

    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(_base_client, "MAX_RETRY_DELAY", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def asked(stand_in: StandIn, questions, **options) -> dict[str, Answer]:
    found = list(ask_server(stand_in.url, "peer", questions, **options))
    assert len(found) == len(questions)
    return {each.question.id: each for each in found}


def test_a_request_is_that_of_a_chat(questions, monkeypatch):
    def script(body, before):
        return Reply(body=completion(f"to {question_in(body)}", "length"))

    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    with standing_in(script) as stand_in:
        found = asked(
            stand_in, questions, suffix="Be short.", system="Look.", max_tokens=7
        )
        list(ask_server(f"{stand_in.url}/v1/", "peer", questions[:1], api_key="mine"))
    for question in questions:
        expected = Answer(question, f"to {question.text}\nBe short.", "length")
        assert found[question.id] == expected
    path, key, body = stand_in.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer from the environment")
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("peer", 7, 0)
    assert body["messages"][0] == {"role": "system", "content": "Look."}
    image, text = body["messages"][1]["content"]
    sent = image["image_url"]["url"]
    data = base64.b64decode(sent.removeprefix("data:image/png;base64,"))
    asked_about = next(q for q in questions if text["text"].startswith(q.text))
    (path_of_it,) = asked_about.images
    assert isinstance(path_of_it, Path) and data == path_of_it.read_bytes()
    path, key, body = stand_in.asked[-1]
    assert (path, key) == ("/v1/chat/completions", "Bearer mine")
    assert len(body["messages"]) == 1


def test_our_server_says_what_ask_says(server, tiny_model, questions):
    found = {
        each.question.id: each
        for each in ask_server(server.url, "tiny", questions, max_tokens=5)
    }
    for question in questions:
        expected = tiny_model.ask(question.text, question.images[0], max_tokens=5)
        assert found[question.id].text == expected


def test_so_many_requests_at_once(questions):
    here, most, lock = 0, 0, threading.Lock()

    def script(body, before):
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.05)
        with lock:
            here -= 1
        return Reply(body=completion("yes"))

    with standing_in(script) as stand_in:
        asked(stand_in, questions, batch=3)
    assert most == 3


def test_what_passes_is_tried_again(questions):
    def script(body, before):
        if before < 2:
            return Reply((500, 429)[before], {"error": {"message": "busy"}})
        return Reply(body=completion("yes"))

    with standing_in(script) as stand_in:
        found = asked(stand_in, questions[:1])
    assert found["q0"].text == "yes" and len(stand_in.asked) == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (
            Reply(500, {"error": {"message": "out of\nmemory"}}),
            "the server answered 500: out of memory",
        ),
        (
            Reply(400, {"error": {"message": "cannot open the image"}}),
            "the server answered 400: cannot open the image",
        ),
        (Reply(400, b"<html>no</html>", "text/html"), "Error code: 400"),
        (Reply(200, b"<html>welcome</html>", "text/html"), "the server sent no answer"),
        (Reply(200, b"{broken"), "the server sent no answer"),
        (Reply(200, {}), "the server sent no answer"),
        (Reply(200, []), "the server sent no answer"),
        (Reply(200, {"choices": []}), "the server sent no answer"),
        (Reply(200, completion(None)), "the server sent no answer: a message without"),
        (Reply(200, completion([1])), "the server sent no answer"),
    ],
)
def test_what_fails_is_one_question(questions, reply, error):
    def script(body, before):
        bad = question_in(body) == questions[1].text
        return reply if bad else Reply(body=completion("yes"))

    with standing_in(script) as stand_in:
        found = asked(stand_in, questions[:3])
    assert [found[f"q{n}"].text for n in range(3)] == ["yes", "", "yes"]
    said = found["q1"].error or ""
    assert said.startswith(f"{questions[1].origin}: ") and error in said
    assert "\n" not in said


def test_a_slow_answer_is_one_question(questions, monkeypatch):
    monkeypatch.setattr(asking, "TIMEOUT", 0.2)
    done = threading.Event()

    def script(body, before):
        if question_in(body) == questions[1].text:
            done.wait(5)
        return Reply(body=completion("yes"))

    with standing_in(script) as stand_in:
        found = asked(stand_in, questions[:3])
        done.set()
    assert [found[f"q{n}"].text for n in range(3)] == ["yes", "", "yes"]
    assert (found["q1"].error or "").endswith("no answer in 0.2 s; is the server busy?")


def test_an_early_end_waits_for_no_answer(questions):
    done = threading.Event()

    def script(body, before):
        if before:
            done.wait(20)
        return Reply(body=completion("yes"))

    with standing_in(script) as stand_in:
        given = ask_server(stand_in.url, "peer", questions, batch=2)
        assert next(given).text == "yes"
        begun = time.monotonic()
        given.close()
        assert time.monotonic() - begun < 5
        done.set()
    assert len(stand_in.asked) <= 4


def test_an_image_that_cannot_be_opened_is_one_question(questions, tmp_path: Path):
    (tmp_path / "set" / "1.png").unlink()
    with standing_in(lambda body, before: Reply(body=completion("yes"))) as stand_in:
        found = asked(stand_in, questions[:3])
    assert "1.png: no such file" in (found["q1"].error or "")
    assert len(stand_in.asked) == 2


def test_images_of_rare_kinds_go_as_png(questions, tmp_path: Path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "set" / "0.png", "TIFF")
    with standing_in(lambda body, before: Reply(body=completion("yes"))) as stand_in:
        asked(stand_in, questions[:1])
    sent = stand_in.asked[0][2]["messages"][0]["content"][0]["image_url"]["url"]
    kind, _, data = sent.partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.format, image.size) == ("PNG", (4, 3))


def test_a_page_of_a_pdf_goes_as_png(questions, tmp_path: Path):
    pages_of(tmp_path / "a.pdf", [numbered_page(3), numbered_page(77)])
    page = tmp_path / "a.pdf#page=2"
    with standing_in(lambda body, before: Reply(body=completion("yes"))) as stand_in:
        asked(stand_in, [replace(questions[0], images=(page,))])
    sent = stand_in.asked[0][2]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))) as image:
        assert (image.format, number_of(image)) == ("PNG", 77)


@pytest.mark.parametrize(
    ("status", "way_out"), [(401, "--api-key"), (403, "--api-key"), (404, "MODEL")]
)
def test_a_refusal_ends_it(questions, status, way_out):
    said = {"error": {"message": "not for you"}}
    with standing_in(lambda body, before: Reply(status, said)) as stand_in:
        with pytest.raises(ServerError) as caught:
            asked(stand_in, questions, batch=2)
        url = stand_in.url
    expected = f"{url}: the server answered {status}: not for you; check {way_out}"
    assert str(caught.value) == expected
    assert len(stand_in.asked) <= 3


def test_nobody_there(questions):
    with standing_in(lambda body, before: Reply()) as stand_in:
        pass
    with pytest.raises(ServerError, match=f"^{stand_in.url}: no connection .*; start"):
        asked(stand_in, questions, batch=2)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x", "http://", "http://[a"]
)
def test_what_is_no_address(url):
    with pytest.raises(OptionError, match="give an address such as http://127.0.0.1"):
        base_address(url)


def test_where_requests_go():
    assert (
        base_address("http://a:1") == base_address(" http://a:1/ ") == "http://a:1/v1"
    )
    assert base_address("https://a/api/v3") == "https://a/api/v3"


def test_without_the_package(questions, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(OptionError, match="--url needs the package openai; .*install"):
        list(ask_server("http://127.0.0.1:1", "peer", questions))
