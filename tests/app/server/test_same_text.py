"""A request that several protocols can say gives the same text in all of them."""

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ollama = pytest.importorskip("ollama")
openai = pytest.importorskip("openai")

from tests.support.paths import ROOT  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM

FEW, MANY = 2, 100
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "word": {"type": "string"}},
    "required": ["n", "word"],
    "additionalProperties": False,
}
TEXTS = (
    "What does the image say?",
    "Describe the image.",
    "What is the number?",
    "Name the shapes and their colors.",
    "Is there a triangle?",
)
Ask = Callable[["Question"], str]


class Question:
    """One request: a text, up to two images, a system prompt, a schema, a limit."""

    def __init__(self, number: int, images: list[Path]):
        chance = random.Random(number)
        self.text = f"{chance.choice(TEXTS)} ({number})"
        self.images = chance.sample(images, chance.choice((0, 1, 1, 1, 2)))
        self.system = chance.choice((None, None, "Be brief."))
        self.schema = SCHEMA if chance.random() < 0.2 else None
        self.tokens = 40 if self.schema else chance.randint(4, 24)
        self.stop = chance.choice((None, "e", "the")) if not self.schema else None
        self.stream = chance.random() < 0.5

    @property
    def data(self) -> list[str]:
        return [base64.b64encode(path.read_bytes()).decode() for path in self.images]


def by_chat(server: RunningServer, links: ExitStack) -> Ask:
    client = links.enter_context(
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
    )

    def ask(asked: Question) -> str:
        content: list[Any] = [{"type": "text", "text": asked.text}]
        content += [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            for data in asked.data
        ]
        messages: list[Any] = [{"role": "user", "content": content}]
        if asked.system:
            messages.insert(0, {"role": "system", "content": asked.system})
        options: dict[str, Any] = {"max_tokens": asked.tokens, "stop": asked.stop}
        if asked.schema:
            form = {"name": "x", "schema": asked.schema}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        create = client.chat.completions.create
        answer: Any = create(
            model="default", messages=messages, stream=asked.stream, **options
        )
        if not asked.stream:
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    return ask


def by_responses(server: RunningServer, links: ExitStack) -> Ask:
    client = links.enter_context(
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
    )

    def ask(asked: Question) -> str:
        content: list[Any] = [{"type": "input_text", "text": asked.text}]
        content += [
            {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}
            for data in asked.data
        ]
        options: dict[str, Any] = {}
        if asked.schema:
            form = {"type": "json_schema", "name": "x", "schema": asked.schema}
            options["text"] = {"format": form}
        answer: Any = client.responses.create(
            model="default",
            input=[{"role": "user", "content": content}],
            instructions=asked.system,
            max_output_tokens=asked.tokens,
            stream=asked.stream,
            **options,
        )
        if not asked.stream:
            return answer.output_text
        return "".join(e.delta for e in answer if e.type.endswith("text.delta"))

    return ask


def by_messages(server: RunningServer, links: ExitStack) -> Ask:
    anthropic = pytest.importorskip("anthropic")  # slow to import
    client = links.enter_context(
        anthropic.Anthropic(base_url=server.url, api_key="-", max_retries=0)
    )

    def ask(asked: Question) -> str:
        content: list[Any] = [
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": data},
            }
            for data in asked.data
        ]
        content.append({"type": "text", "text": asked.text})
        options: dict[str, Any] = {}
        if asked.system:
            options["system"] = asked.system
        if asked.stop:
            options["stop_sequences"] = [asked.stop]
        if asked.schema:
            form = {"type": "json_schema", "schema": asked.schema}
            options["output_config"] = {"format": form}
        options |= {"model": "default", "max_tokens": asked.tokens}
        options["messages"] = [{"role": "user", "content": content}]
        if not asked.stream:
            return client.messages.create(**options).content[0].text
        with client.messages.stream(**options) as stream:
            return "".join(stream.text_stream)

    return ask


def by_ollama(server: RunningServer, links: ExitStack) -> Ask:
    client = ollama.Client(host=server.url)
    links.callback(client._client.close)

    def ask(asked: Question) -> str:
        options: dict[str, Any] = {"num_predict": asked.tokens}
        if asked.stop:
            options["stop"] = [asked.stop]
        answer: Any = client.generate(
            model="default",
            prompt=asked.text,
            images=[path.read_bytes() for path in asked.images],
            system=asked.system or "",
            format=asked.schema,
            options=options,
            stream=asked.stream,
        )
        if not asked.stream:
            return answer.response
        return "".join(piece.response for piece in answer)

    return ask


def by_library(model: "FastVLM") -> Ask:
    def ask(asked: Question) -> str:
        # As `chat` does.
        options: dict[str, Any] = {"system": asked.system, "max_tokens": asked.tokens}
        if asked.stop:
            options["stop"] = [asked.stop]
        if asked.schema:
            from fastvlm_mlx.generation.constrained import JSONConstraint

            options["constraint"] = JSONConstraint(model, asked.schema)
        return model.ask(asked.text, asked.images, **options)

    return ask


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[RunningServer, "FastVLM"]]:
    from fastvlm_mlx import load
    from fastvlm_mlx.hub.locate import locate

    folder = locate("demo")
    with running(folder) as server:
        yield server, load("demo")


def differences(
    demo: tuple[RunningServer, "FastVLM"], count: int
) -> list[dict[str, str]]:
    """The questions that some protocol answers otherwise, with all answers."""
    server, model = demo
    images = sorted((ROOT / "examples").glob("*.png"))
    assert len(images) > 1
    with ExitStack() as links:
        asks: dict[str, Ask] = {
            "library": by_library(model),
            "chat": by_chat(server, links),
            "responses": by_responses(server, links),
            "messages": by_messages(server, links),
            "ollama": by_ollama(server, links),
        }
        found = []
        for number in range(count):
            asked = Question(number, images)
            answers = {}
            for name, ask in asks.items():
                # A stop text has no place in this protocol.
                if name == "responses" and asked.stop:
                    continue
                answers[name] = ask(asked)
            if len(set(answers.values())) > 1:
                found.append({"question": asked.text, **answers})
            if asked.schema:
                assert sorted(json.loads(answers["chat"])) == ["n", "word"]
    return found


def test_the_same_text_in_all_protocols(demo):
    assert differences(demo, FEW) == []


@pytest.mark.slow
def test_the_same_text_for_a_hundred_questions(demo):
    assert differences(demo, MANY) == []
