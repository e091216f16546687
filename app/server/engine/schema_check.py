"""Compiles clients' JSON schemas in a subprocess first, with limits on time and memory.

A schema that was not seen before is compiled in a process that can be killed; see
`fastvlm_mlx.generation.json_schema`.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from typing import Any

from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.generation.json_schema import SECONDS

_MAX_PROCESSES = 2
_MAX_CHARACTERS = 64 << 10
_MAX_REMEMBERED = 1024  # hashes of schemas that passed


class SchemaChecker:
    """Decides which schemas are safe to compile in this process."""

    def __init__(self):
        self._passed: dict[bytes, None] = {}
        self._processes = asyncio.Semaphore(_MAX_PROCESSES)

    async def check(self, schema: Any, field: str):
        """Compiles `schema` in a subprocess, unless it passed before.

        Errors name `field`, where in the body it is.

        Raises:
            APIError: It does not compile, or takes too much time or memory.
        """
        text = json.dumps(schema)
        if len(text) > _MAX_CHARACTERS:
            fault = f"{len(text)} characters, more than {_MAX_CHARACTERS}"
            raise _invalid(fault, field)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if key in self._passed:
            return
        async with self._processes:
            fault = await asyncio.to_thread(_compile_error, text)
        if fault:
            raise _invalid(fault.removeprefix("schema: "), field)
        self._passed[key] = None
        while len(self._passed) > _MAX_REMEMBERED:
            del self._passed[next(iter(self._passed))]


def _compile_error(text: str) -> str:
    """What is wrong with a schema; "" if nothing is."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastvlm_mlx.generation.json_schema"],
            input=text.encode(),
            capture_output=True,
            timeout=10 * SECONDS,  # by the clock: other work may have the processor
        )
    except subprocess.TimeoutExpired:
        return "schema: takes too long to compile; simplify it"
    if done.returncode:
        return "schema: takes too much to compile; simplify it"
    return done.stdout.decode("utf-8", "replace").strip()


def _invalid(fault: str, field: str) -> APIError:
    return APIError(400, fault, code="invalid_value").at(field)
