"""What is done when it fires: the user's command, or a POST to the user's address.

Both are the user's own words. Nothing that a model said is part of a command line or an
address: it goes to the command's standard input and environment, and into the body.
"""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.errors import quoted

SECONDS = 60.0  # that a command may take
PATIENCE = 5.0  # that it may still take after the watch was told to end
POST_SECONDS = 10.0
# Fields that a command finds in its environment too, as FASTVLM_ANSWER.
VARIABLES = ("source", "image", "position", "probability", "answer")
_POLL = 0.05
_LONGEST = 100_000  # of a variable; Linux allows 128 KB


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # A redirected POST becomes a GET, which nobody expects.
    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


@dataclass(frozen=True)
class Action:
    """A command, an address, both or neither.

    Raises:
        UsageError: one of them cannot be meant.
    """

    command: str | None = None
    address: str | None = None

    def __post_init__(self):
        if self.command is not None and not self.command.strip():
            raise UsageError(
                "--run is empty; give a command, such as --run 'say hello'"
            )
        if self.address is not None:
            try:
                parts = urlsplit(self.address)
                sound = parts.scheme in ("http", "https") and bool(parts.hostname)
                _ = parts.port
            except ValueError:
                sound = False
            if not sound:
                raise UsageError(
                    f"--post {self.address[:80]}: give an http or https address"
                )

    def __bool__(self) -> bool:
        return self.command is not None or self.address is not None

    def do(self, fields: Mapping[str, Any], stop: threading.Event) -> str | None:
        """Runs and posts with a line's fields; what went wrong, or None.

        It waits for the command, `SECONDS` at most; once `stop` is set, `PATIENCE`.
        """
        text = json.dumps(dict(fields))
        faults = []
        if self.command is not None:
            faults.append(_run(self.command, text, fields, stop))
        if self.address is not None:
            faults.append(_post(self.address, text))
        return "; ".join(filter(None, faults)) or None


def _run(
    command: str, text: str, fields: Mapping[str, Any], stop: threading.Event
) -> str | None:
    try:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=2,  # standard output is for the lines alone
            env={**os.environ, **_variables(fields)},
            start_new_session=True,  # Ctrl-C is for us, and it can be ended in whole
        )
    except (OSError, ValueError) as error:
        return f"--run: cannot be started ({quoted(error)})"
    # In a thread: a command that reads nothing of a long text would stop us.
    writer = threading.Thread(target=_feed, args=(process, text), daemon=True)
    writer.start()
    end = time.monotonic() + SECONDS
    while process.poll() is None:
        if stop.is_set():
            end = min(end, time.monotonic() + PATIENCE)
            stop = threading.Event()
        if time.monotonic() >= end:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"--run: ended, as it took more than {SECONDS:g} s"
        time.sleep(_POLL)
    return f"--run: exit code {process.returncode}" if process.returncode else None


def _feed(process: "subprocess.Popen[bytes]", text: str) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it reads none of it, or has ended
        with process.stdin:
            process.stdin.write(f"{text}\n".encode())


def _variables(fields: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a line as variables such as FASTVLM_ANSWER; no control characters."""
    found = {}
    for key in VARIABLES:
        if (value := fields.get(key)) is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            plain = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
            found[f"FASTVLM_{key.upper()}"] = plain[:_LONGEST]
    return found


def _post(address: str, text: str) -> str | None:
    request = urllib.request.Request(
        address,
        text.encode(),
        {
            "Content-Type": "application/json",
            "User-Agent": f"fastvlm-mlx/{__version__}",
        },
        method="POST",
    )
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=POST_SECONDS) as response:
            response.read(1 << 16)
    except urllib.error.HTTPError as error:
        error.close()
        return f"--post: the server answered {error.code}"
    except (OSError, ValueError) as error:
        return f"--post: no answer ({quoted(getattr(error, 'reason', error))})"
    return None
