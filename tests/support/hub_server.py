"""A stand-in for the Hugging Face hub on 127.0.0.1: what huggingface_hub asks of it.

Repositories are dictionaries in memory. It can refuse, fail, cut a download short or
hold it open, and it counts what was asked.
"""

import hashlib
import json
import os
import re
import sys
import threading
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import safetensors.numpy

# A small file of the safetensors format.
WEIGHTS = safetensors.numpy.save({"weight": np.arange(50_000, dtype=np.float32)})

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Files by name, at one commit; `branches` gives it names."""

    files: dict[str, bytes] = field(repr=False)
    branches: tuple[str, ...] = ("main",)

    @cached_property
    def digests(self) -> dict[str, str]:
        return {n: hashlib.sha1(data).hexdigest() for n, data in self.files.items()}

    @cached_property
    def commit(self) -> str:
        return hashlib.sha1(repr(self.digests).encode()).hexdigest()


@dataclass
class Hub:
    """A running stand-in: `with Hub({"apple/FastVLM-0.5B": [Repository(...)]})`."""

    repositories: dict[str, list[Repository]]
    # Every answer for this repository: a status and the hub's X-Error-Code.
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # file: bytes, then close, once
    hold: dict[str, int] = field(default_factory=dict)  # file: bytes, then wait
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> "Hub":
        self.released = threading.Event()
        self.holding = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for."""
        asked = [r.split(" ") for r in self.requests if r.startswith("GET")]
        return [f[3] for _, p, *_ in asked if (f := _FILE.fullmatch(p))]

    def find(self, repository: str, revision: str) -> Repository | None:
        for one in self.repositories.get(repository, []):
            if revision == one.commit or revision in one.branches:
                return one
        return None


def empty_machine(monkeypatch: pytest.MonkeyPatch, folder: Path, endpoint: str) -> None:
    """A machine that has nothing yet, at work in `folder`; its hub is at `endpoint`."""
    for key in [k for k in os.environ if k.startswith(("HF_", "HUGGING", "XDG_"))]:
        monkeypatch.delenv(key)
    monkeypatch.delenv("FASTVLM_MODEL", raising=False)
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("FASTVLM_CACHE", str(folder / "ours"))
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    # The library reads this once, when it is imported: an earlier test may have been
    # offline then.
    if constants := sys.modules.get("huggingface_hub.constants"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(folder)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    # On a connection that stays, a body would wait 40 ms: Nagle's algorithm holds it
    # until the client acknowledges the head, and the client delays that.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        wanted = self.headers.get("Range", "")
        self.hub.requests.append(f"{self.command} {path} {wanted}".strip())
        try:
            if match := _API.fullmatch(path):
                self._api(match[1], match[2], match[3] or "main")
            elif match := _FILE.fullmatch(path):
                self._file(match[1], match[2], match[3])
            else:
                self._send(404, b"")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _api(self, name: str, kind: str | None, revision: str) -> None:
        if (repository := self._find(name, revision)) is None:
            return
        entries = [
            {"oid": repository.digests[file], "size": len(data), "name": file}
            for file, data in repository.files.items()
        ]
        if kind == "tree":
            answer: Any = [
                {"type": "file", "path": e["name"], "oid": e["oid"], "size": e["size"]}
                for e in entries
            ]
        else:
            siblings = [
                {"rfilename": e["name"], "size": e["size"], "blobId": e["oid"]}
                for e in entries
            ]
            answer = {"id": name, "sha": repository.commit, "siblings": siblings}
        body = json.dumps(answer).encode()
        self._send(200, body, {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str) -> None:
        if (repository := self._find(name, revision)) is None:
            return
        if file not in repository.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = repository.files[file]
        headers = {
            "ETag": f'"{repository.digests[file]}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first, size = int(match[1]), len(data)
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
            data, status = data[first:], 206
        stop = None
        if self.command == "GET":
            stop = self.hub.cut.pop(file, None) or self.hub.hold.get(file)
        self._send(status, data, headers, stop)
        if stop is not None and file in self.hub.hold:
            self.hub.holding.set()
            self.hub.released.wait(60)

    def _find(self, name: str, revision: str) -> Repository | None:
        if name in self.hub.refuse:
            status, code = self.hub.refuse[name]
            headers = {"X-Error-Code": code} if code else {}
            if code == "InvalidToken":  # this one the hub says only in words
                told = "Invalid credentials in Authorization header"
                headers = {"X-Error-Message": told}
            self._send(status, b"", headers)
        elif name not in self.hub.repositories:
            # The hub tells strangers 401 for what does not exist.
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif (found := self.hub.find(name, revision)) is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return found
        return None

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        stop: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if stop is None else body[:stop])
            self.wfile.flush()
        self.close_connection = self.close_connection or stop is not None
