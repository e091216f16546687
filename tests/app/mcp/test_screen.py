"""The tool that looks at a Mac's screen, with a stand-in for what captures it."""

from pathlib import Path

import pytest
from mcp import Client, MCPError

from fastvlm_mlx import load
from tests.support.mcp_tools import CountingWorker, call, make_server, text, use


def test_the_screen_is_a_tool_where_it_can_be_captured(
    worker: CountingWorker, root: Path, coffee: Path, tiny: str
):
    server = make_server(worker, root, capture=coffee.read_bytes)

    async def names(client: Client) -> list[str]:
        return [tool.name for tool in (await client.list_tools()).tools]

    assert use(server, names)[-1] == "look_at_screen"
    answer = call(server, "look_at_screen", question="What is open?", max_tokens=6)
    expected = load(tiny).ask("What is open?", coffee, max_tokens=6)
    assert text(answer) == expected
    without = make_server(worker, root)
    with pytest.raises(MCPError, match="tool 'look_at_screen': unknown"):
        call(without, "look_at_screen")
