"""A setting's process: started with a model, asked by lines of JSON, ended.

What takes longer than `limit` seconds, loading or one answer, is stopped. Whatever
fails, the reason is in `failed`.
"""

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass
class Process:
    """One runtime in its own interpreter.

    Attributes:
        python: the interpreter.
        module: of the runtime, by its full name.
        arguments: for the runtime: the model, the resolution, its options.
        limit: seconds that loading or one answer may take.
        failed: why it is not asked any more.
        loaded: its first message: seconds to load, versions, peak memory.
    """

    python: str
    module: str
    arguments: dict[str, Any]
    limit: float
    failed: str | None = None
    loaded: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> "Process":
        # A file, not a pipe: it is read at the end only, and a full pipe blocks.
        self.said = tempfile.TemporaryFile("w+")
        try:
            self.process = subprocess.Popen(
                [self.python, "-m", self.module, json.dumps(self.arguments)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.said,
                text=True,
            )
        except OSError:
            self.said.close()
            raise
        self.loaded = self._read() or {}
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:  # interrupted: it may be in the middle of an answer
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()  # it ends when nothing more can be asked
        self.process.wait()
        self.said.close()

    def ask(self, **request: Any) -> dict[str, Any] | None:
        """The answer to one request; None if it failed, now or before."""
        if self.failed or self.process.stdin is None:
            return None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer will be missing too
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        with time_limit(self.process, self.limit) as expired:
            line = self.process.stdout.readline()
        if expired:
            self.failed = f"no answer within {self.limit:g} s"
            return None
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            self.failed = answer["error"]
            return None
        return answer

    def _last_words(self) -> str:
        self.process.wait()
        self.said.seek(0)
        said = self.said.read().strip().splitlines()
        return said[-1] if said else f"ended with {self.process.returncode}"


@contextmanager
def time_limit(process: subprocess.Popen[Any], seconds: float) -> Iterator[list[bool]]:
    """Kills `process` if the block takes longer; the list is then no longer empty."""
    expired: list[bool] = []

    def expire() -> None:
        expired.append(True)
        process.kill()

    timer = threading.Timer(seconds, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def cold(command: list[str], marker: bytes, limit: float) -> float | str:
    """Seconds from the start of a new process to the first text of its answer.

    Args:
        command: of a user.
        marker: what it prints before the answer.
        limit: seconds it may take.
    Returns:
        a reason instead where it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    said, seconds = b"", None
    try:
        with time_limit(process, limit) as expired:
            while piece := process.stdout.read(4096):
                said += piece
                answer = text_after(marker, said)
                if seconds is None and answer.strip(b"\n"):
                    seconds = time.perf_counter() - started
            process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if expired:
        return f"no cold answer within {limit:g} s"
    if seconds is None or process.returncode:
        return f"a cold start ended with {process.returncode}"
    return seconds


def text_after(marker: bytes, said: bytes) -> bytes:
    """The output after the last `marker`; all of it if the marker is empty."""
    if not marker:
        return said
    return said.rpartition(marker)[2] if marker in said else b""
