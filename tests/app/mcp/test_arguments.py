"""Hostile and mistaken arguments: each is one line that the model can read."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from PIL import Image

from fastvlm_mlx.app.server.engine import fetch
from fastvlm_mlx.app.server.http.errors import APIError
from tests.support.mcp_tools import (
    CountingWorker,
    call,
    fault,
    make_server,
    make_tools,
    text,
    use,
)

NOT_TEXT = [None, 3, True, [], ["coffee.png"], {"path": "coffee.png"}]


@pytest.mark.parametrize("image", NOT_TEXT, ids=repr)
def test_an_image_is_a_text(server: Any, image: Any):
    assert fault(call(server, "describe_image", image=image)) == "image: give a text"


@pytest.mark.parametrize(
    "tool, arguments, message",
    [
        ("describe_image", {}, "Missing required parameter: 'image'"),
        ("ask_image", {"image": "a"}, "Missing required parameter: 'question'"),
        (
            "ask_image",
            {"image": "a", "question": ""},
            "question: give at least 1 character",
        ),
        (
            "describe_image",
            {"image": ""},
            "image: is empty; give a path or a data: URL",
        ),
        (
            "describe_image",
            {"image": "a", "detail": 1},
            "Unrecognized request argument supplied: detail",
        ),
        (
            "describe_image",
            {"image": "a", "max_tokens": 0},
            "max_tokens: give a whole number from 1 to 9223372036854775807",
        ),
        (
            "describe_image",
            {"image": "a", "max_tokens": "5"},
            "max_tokens: give a whole number from 1 to 9223372036854775807",
        ),
        ("compare_images", {"images": "a"}, "images: give a list"),
        ("compare_images", {"images": ["a"]}, "images: give at least 2 values"),
        ("compare_images", {"images": ["a", 5]}, "images[1]: give a text"),
        (
            "compare_images",
            {"images": ["a"] * 17},
            "images: 17 images; give at most 16",
        ),
        (
            "compare_images",
            {"images": ["coffee.png", "nope.png"]},
            "images[1]: nope.png: no such file in {root}; check the path",
        ),
        ("extract", {"image": "a", "schema": "object"}, "schema: give an object"),
        ("extract", {"image": "a", "schema": None}, "schema: give an object"),
        ("extract", {"image": "a"}, "Missing required parameter: 'schema'"),
        (
            "describe_image",
            {"image": "data:image/png,nothing"},
            "image: a data: url must be data:image/...;base64,...",
        ),
        (
            "describe_image",
            {"image": "data:image/png;base64,####"},
            "image: is not base64 of an image file",
        ),
        (
            "describe_image",
            {"image": "file://elsewhere/coffee.png"},
            "image: a file: URL must be file:///PATH",
        ),
        (
            "describe_image",
            {"image": "../secret.png"},
            "image: ../secret.png: outside of what may be read ({root}); give a path in"
            " there, or start the server with --root DIR",
        ),
        (
            "describe_image",
            {"image": "http://example.org/a.png"},
            "image: images at example.org are not allowed; send the image itself as a"
            " data: url, or start the server with --allow-url HOST",
        ),
        (
            "ask_image",
            {"image": "coffee.png", "question": "word " * 300_000},
            "1500000 characters of text; at most 1000000 may be in a request",
        ),
    ],
)
def test_mistakes(
    server: Any, root: Path, tool: str, arguments: dict[str, Any], message: str
):
    found = fault(call(server, tool, **arguments))
    assert found == message.format(root=root.resolve())


def test_what_is_no_image_is_not_quoted(server: Any, root: Path):
    (root / "notes.png").write_text("password: hunter2")
    found = fault(call(server, "describe_image", image="notes.png"))
    assert found.startswith("image: image of 17 bytes: ") and "hunter2" not in found
    (root / "empty.png").write_bytes(b"")
    assert fault(call(server, "describe_image", image="empty.png")).startswith(
        "image: "
    )


def test_schemas_that_cannot_be_followed(server: Any):
    def refusal(schema: Any) -> str:
        return fault(call(server, "extract", image="coffee.png", schema=schema))

    long = {"enum": ["x" * 70_000]}
    assert refusal(long) == "schema: 70014 characters, more than 65536"
    assert refusal({"type": "nonsense"}).startswith("schema: cannot be followed (")
    assert refusal({"$ref": "https://example.org/schema"}).startswith("schema: ")
    slow = {"allOf": [{"pattern": "(a|b)*" * 20}, {"pattern": "(a|c)*x{90}" * 20}]}
    assert refusal({"type": "string", **slow}).startswith("schema: ")
    assert text(call(server, "extract", image="coffee.png", schema={"const": 1})) == "1"


def test_a_schema_deeper_than_any_transport_carries(worker: CountingWorker, root: Path):
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"not": deep}
    tools = make_tools(worker, root)
    with pytest.raises(APIError, match="^schema: nested too deeply; simplify it$"):
        asyncio.run(tools._check_schema(deep))


def test_base64_that_looks_like_a_path_and_a_path_that_looks_like_base64(
    server: Any, images: Path, root: Path, tiny: str
):
    Image.open(images / "coffee.png").convert("RGB").save(root / "a.jpg")
    data = base64.b64encode((root / "a.jpg").read_bytes()).decode()
    assert data.startswith("/9j/")
    by_content = call(server, "describe_image", image=data, max_tokens=4)
    by_path = call(server, "describe_image", image="a.jpg", max_tokens=4)
    assert text(by_content) == text(by_path)
    (root / "Qk").mkdir()
    (root / "Qk/coffee.png").write_bytes((images / "coffee.png").read_bytes())
    found = call(server, "describe_image", image="Qk/coffee.png", max_tokens=4)
    assert text(found) == text(
        call(server, "describe_image", image="coffee.png", max_tokens=4)
    )


def test_urls_follow_the_rules_of_the_server(
    worker: CountingWorker, root: Path, coffee: Path, monkeypatch: pytest.MonkeyPatch
):
    server = make_server(worker, root, hosts=("images.example", "localhost"))
    asked: list[str] = []

    def fetched(url: str, policy: fetch.FetchPolicy) -> bytes:
        asked.append(url)
        policy.check_url(fetch.http_client.parse_url(url))  # type: ignore[attr-defined]
        return coffee.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(fetch.http_client, "fetch", fetched)
        url = "https://images.example/coffee.png"
        answer = call(server, "describe_image", image=url, max_tokens=4)
        same = call(server, "describe_image", image="coffee.png", max_tokens=4)
        assert text(answer) == text(same) and asked == [url]
        other = call(server, "describe_image", image="https://other.example/a.png")
        assert fault(other).startswith("image: images at other.example are not allowed")
    local = call(server, "describe_image", image="http://localhost/coffee.png")
    assert (
        fault(local) == "image: an image's url leads to an address that is not public"
    )


def test_unknown_tools_are_errors_of_the_protocol(server: Any):
    for name in ("nope", "", "describe_image ", "x" * 500):
        with pytest.raises(MCPError, match="^tool '.*': unknown; this server has") as e:
            call(server, name)
        assert len(str(e.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=8,
)
PATHS = st.text(max_size=30) | st.sampled_from(
    [
        "../secret.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "data:,",
        "http://[::1]/a",
        "~",
    ]
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "image": PATHS | JSON,
        "images": st.lists(PATHS, max_size=4) | JSON,
        "question": st.text(max_size=20) | JSON,
        "max_tokens": st.integers(-2, 3) | JSON,
        "instruction": JSON,
        "other": JSON,
    },
)
TOOLS = ("describe_image", "ask_image", "read_text", "compare_images", "extract")


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(TOOLS), ARGUMENTS), min_size=1, max_size=5))
def test_whatever_is_sent_is_answered_in_one_line(
    server: Any, calls: list[tuple[str, dict[str, Any]]]
):
    async def send(client: Client) -> None:
        for tool, arguments in calls:
            result = await client.call_tool(tool, arguments)
            # None of them names an image that is there.
            found = fault(result)
            assert "the server failed" not in found, (tool, arguments)
            assert "root:" not in found  # of /etc/passwd

    use(server, send)
