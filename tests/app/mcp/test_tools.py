"""The tools through the SDK's client, in memory: answers, cost, progress, the end."""

import asyncio
import base64
import itertools
import json
import re
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from PIL import Image

from fastvlm_mlx import load
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.conversation.attachment import attach
from fastvlm_mlx.errors import DownloadError
from fastvlm_mlx.processing.image_options import ImageOptions
from tests.support.mcp_tools import (
    CountingWorker,
    call,
    fault,
    make_server,
    started,
    text,
    usage,
    use,
)
from tests.support.serve_process import LONG  # its answer takes seconds

OBJECT = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}


_numbers = itertools.count(1)


@pytest.fixture
def fresh(worker: CountingWorker, root: Path) -> str:
    """The name of an image that no other test has shown, in `root`."""
    number = next(_numbers)
    Image.new("RGB", (50, 40), (40 * number % 256, 9 * number, 77)).save(
        root / "fresh.png"
    )
    return "fresh.png"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_tools_are_listed_with_the_form_of_their_arguments(server: Any, mode: str):
    async def listed(client: Client) -> Any:
        return (await client.list_tools()).tools, client.instructions

    tools, instructions = use(server, listed, mode)
    assert [tool.name for tool in tools] == [
        "describe_image",
        "ask_image",
        "read_text",
        "compare_images",
        "extract",
    ]
    forms = {tool.name: tool.input_schema for tool in tools}
    assert forms["ask_image"]["required"] == ["image", "question"]
    assert forms["extract"]["required"] == ["image", "schema"]
    assert all(form["additionalProperties"] is False for form in forms.values())
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools)
    assert "title" not in json.dumps(forms)
    assert "root" in instructions


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_answers_are_those_of_the_library(
    server: Any, tiny: str, coffee: Path, mode: str
):
    model = load(tiny)
    for question in ("What is this?", "And the colour?"):
        answer = call(
            server,
            "ask_image",
            mode,
            image="coffee.png",
            question=question,
            max_tokens=9,
        )
        assert text(answer) == model.ask(question, coffee, max_tokens=9)
    for tool, prompt in (
        ("describe_image", "Describe the image."),
        ("read_text", "Write down all the text in the image, and nothing else."),
    ):
        answer = call(server, tool, mode, image="coffee.png", max_tokens=6)
        assert text(answer) == model.ask(prompt, coffee, max_tokens=6)


def test_images_are_compared_in_their_order(
    server: Any, tiny: str, root: Path, fresh: str
):
    model = load(tiny)
    given = {"images": ["coffee.png", fresh], "question": "Which?", "max_tokens": 8}
    both = [root / "coffee.png", root / fresh]
    assert text(call(server, "compare_images", **given)) == model.ask(
        "Which?", both, max_tokens=8
    )
    assert text(call(server, "compare_images", images=given["images"], max_tokens=3))


def test_a_second_question_costs_its_own_tokens(
    server: Any, worker: CountingWorker, tiny: str, root: Path, fresh: str
):
    def cost(question: str) -> tuple[int, int]:
        """Positions that were in the cache, and that were not."""
        result = call(server, "ask_image", image=fresh, question=question, max_tokens=2)
        used = usage(result)
        return used["cached_tokens"], used["prompt_tokens"] - used["cached_tokens"]

    model = load(tiny)
    image = attach(model, root / fresh, ImageOptions.of(model.config))
    before = worker.encoded
    _, first = cost("One?")
    assert worker.encoded == before + 1
    cached, second = cost("Is it two?")
    longer = " and" * 30
    assert cost(f"Is it two{longer}?")[0] == cached > image.tokens
    assert worker.encoded == before + 1
    assert second < 20 and first - second >= image.tokens - 10


def test_the_same_image_by_path_and_by_content_is_encoded_once(
    server: Any, worker: CountingWorker, root: Path, fresh: str
):
    before = worker.encoded
    data = base64.b64encode((root / fresh).read_bytes()).decode()
    answers = {
        text(call(server, "ask_image", image=image, question="What?", max_tokens=5))
        for image in (
            fresh,
            f"./{fresh}",
            str(root / fresh),
            (root / fresh).as_uri(),
            data,
            f"data:image/png;base64,{data}",
        )
    }
    assert len(answers) == 1 and worker.encoded == before + 1


def test_extract_gives_the_object_and_its_text(server: Any):
    result = call(server, "extract", image="coffee.png", schema=OBJECT)
    assert result.structured_content in ({"a": "x"}, {"a": "y"})
    assert json.loads(text(result)) == result.structured_content
    listed = call(
        server,
        "extract",
        image="coffee.png",
        schema={"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 1},
        instruction="Count.",
    )
    assert json.loads(text(listed)) == [1] and listed.structured_content is None


def test_an_answer_that_was_cut_says_so(server: Any):
    result = call(server, "describe_image", image="coffee.png", max_tokens=2)
    assert usage(result)["finish_reason"] == "length"
    assert [block.text for block in result.content[1:]] == [  # type: ignore[union-attr]
        "(cut after 2 tokens; max_tokens sets how many)"
    ]
    short = call(server, "extract", image="coffee.png", schema=OBJECT, max_tokens=1)
    assert fault(short) == (
        "max_tokens 1: too few for JSON of this schema; give at least 9"
    )


def test_half_an_object_is_no_answer(tiny: str, root: Path):
    with started(tiny, Limits(answer_time=1.0)) as worker:
        server = make_server(worker, root)
        given = {"image": "coffee.png", "schema": LONG, "max_tokens": 3000}
        result = call(server, "extract", **given)
    assert re.fullmatch(
        r"no whole JSON after \d+ tokens; ask for less data", fault(result)
    )


def test_progress_counts_tokens_up_to_the_limit(
    server: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fastvlm_mlx.app.mcp.server._PROGRESS", 0.0)
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async def ask(client: Client) -> Any:
        return await client.call_tool(
            "describe_image",
            {"image": "coffee.png", "max_tokens": 5},
            progress_callback=note,
        )

    tokens = usage(use(server, ask, "legacy"))["completion_tokens"]
    assert seen[0] == (0, 5, "reading the image")
    counts = [done for done, _, _ in seen[1:]]
    assert counts == sorted(counts) and counts[-1] == tokens
    assert all(total == 5 for _, total, _ in seen)


def test_a_cancelled_call_ends_the_answer(server: Any, worker: CountingWorker):
    begun = threading.Event()
    worker.ended.clear()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        if progress:  # not the reading of the image
            begun.set()

    async def give_up(client: Client) -> Any:
        with anyio.move_on_after(60) as scope:
            async with anyio.create_task_group() as group:

                async def ask() -> None:
                    await client.call_tool(
                        "extract",
                        {"image": "coffee.png", "schema": LONG, "max_tokens": 3000},
                        progress_callback=note,
                    )

                group.start_soon(ask)
                while not begun.is_set():
                    await asyncio.sleep(0.01)
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert await asyncio.to_thread(worker.ended.wait, 60)
        return await client.call_tool(
            "describe_image", {"image": "coffee.png", "max_tokens": 2}
        )

    assert text(use(server, give_up, "legacy"))
    assert worker.waiting == 0


def test_calls_wait_for_the_model_and_say_what_kept_it(
    worker: CountingWorker, root: Path
):
    loaded: Future[None] = Future()
    server = make_server(worker, root, loaded=loaded)
    seen: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)
        if message == "loading the model":
            loaded.set_result(None)

    async def ask(client: Client) -> Any:
        assert (await client.list_tools()).tools  # before the model is there
        return await client.call_tool(
            "describe_image",
            {"image": "coffee.png", "max_tokens": 2},
            progress_callback=note,
        )

    assert text(use(server, ask)) and seen[:2] == [
        "loading the model",
        "reading the image",
    ]
    broken: Future[None] = Future()
    broken.set_exception(DownloadError("the hub did not answer; try again"))
    failing = make_server(worker, root, loaded=broken)
    result = call(failing, "describe_image", image="coffee.png")
    assert fault(result) == "the hub did not answer; try again"


def test_many_calls_at_once_get_their_own_answers(server: Any, tiny: str, coffee: Path):
    model = load(tiny)
    questions = [f"Question {number}?" for number in range(5)]

    async def ask_all(client: Client) -> list[str]:
        results = await asyncio.gather(
            *(
                client.call_tool(
                    "ask_image",
                    {"image": "coffee.png", "question": each, "max_tokens": 6},
                )
                for each in questions
            )
        )
        return [text(result) for result in results]

    expected = [model.ask(each, coffee, max_tokens=6) for each in questions]
    assert use(server, ask_all, "legacy") == expected
