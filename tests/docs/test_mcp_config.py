"""The configurations in docs/mcp.md start the command as it is."""

import json
from typing import Any

import pytest

from tests.support.doc_blocks import Block, blocks
from tests.support.doc_commands import parse
from tests.support.paths import ROOT

JSON = [one for one in blocks() if one.page == "docs/mcp.md" and one.language == "json"]


@pytest.mark.parametrize("block", JSON, ids=str)
def test_json_is_one_that_the_code_knows(block: Block):
    pytest.importorskip("mcp")
    from fastvlm_mlx.app.mcp.server import USAGE

    found: dict[str, Any] = json.loads(block.text)
    servers = found.get("mcpServers")
    if servers is None:
        assert set(found) == {USAGE}
        return
    (server,) = servers.values()
    assert server["command"].endswith("/fastvlm-mlx")
    parse(["fastvlm-mlx", *server["args"]])


def test_every_tool_is_in_the_table():
    pytest.importorskip("mcp")
    from fastvlm_mlx.app.mcp.tools import ANYWHERE, SCREEN

    page = (ROOT / "docs/mcp.md").read_text("utf-8")
    for spec in (*ANYWHERE, SCREEN):
        form = spec.input_schema()
        names = ", ".join(
            f"`{name}`" for name in form["properties"] if name != "max_tokens"
        )
        assert f"| `{spec.name}` | {names} |" in page
