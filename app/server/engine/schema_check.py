"""Schemas from strangers, tried in a process of their own first.

Each schema that was not seen yet is compiled in a process that can be ended when it
takes too long; see `json_schema`.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from typing import Any

from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.generation.json_schema import SECONDS

_AT_ONCE = 2
_SIZE = 64 << 10  # characters of a schema
_KNOWN = 1024  # hashes of schemas that passed


class Schemas:
    """Says which schemas are safe to compile here."""

    def __init__(self):
        self._passed: dict[bytes, None] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def check(self, schema: Any):
        """Raises APIError unless `schema` compiles, in reasonable time."""
        text = json.dumps(schema)
        if len(text) > _SIZE:
            raise _refusal(f"schema: {len(text)} characters, more than {_SIZE}")
        name = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if name in self._passed:
            return
        async with self._turn:
            fault = await asyncio.to_thread(_try, text)
        if fault:
            raise _refusal(fault)
        self._passed[name] = None
        while len(self._passed) > _KNOWN:
            del self._passed[next(iter(self._passed))]


def _try(text: str) -> str:
    """What is wrong with a schema, "" if nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastvlm_mlx.generation.json_schema"],
            input=text.encode(),
            capture_output=True,
            timeout=2 * SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "schema: takes too long to compile; simplify it"
    if done.returncode:
        return "schema: takes too much to compile; simplify it"
    return done.stdout.decode("utf-8", "replace").strip()


def _refusal(message: str) -> APIError:
    return APIError(400, message, code="invalid_value", param="response_format")
