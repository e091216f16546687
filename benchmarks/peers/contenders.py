"""Starts each peer as a process in a virtual environment of its own, and asks it.

If a peer cannot be installed, started or asked, the reason is in `failed`.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fastvlm_mlx.app.terminal import note

ROOT = Path(__file__).parents[2]
NAMES = ("ours", "mlx-vlm", "mlx-vlm-installed", "transformers")
LINUX = sys.platform == "linux"
REQUIREMENTS = {
    "mlx-vlm": ("mlx-vlm", *(("mlx[cpu]", "scipy-openblas32") if LINUX else ())),
    "transformers": ("torch", "torchvision", "timm", "transformers", "pillow"),
}


@dataclass
class Peer:
    """One runtime.

    Attributes:
        rounds: in how many more rounds it takes part.
        slow: its rounds have no warm-up.
        installed: as installed, without our BLAS; takes many minutes on Linux.
        failed: why it is not asked any more.
        loaded: its first message: seconds to load, versions, peak memory.
        said: its stderr.
    """

    name: str
    module: str
    python: str
    model: Path
    settings: dict[str, Any]
    installed: bool = False
    slow: bool = False
    rounds: int = 0
    failed: str | None = None
    loaded: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    said: IO[str] = field(default_factory=lambda: io.StringIO())

    def start(self) -> None:
        """Loads the model; waits until it is ready."""
        arguments = json.dumps({"model": str(self.model), **self.settings})
        # A file, not a pipe: it is read at the end only, and a full pipe blocks.
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [self.python, "-m", self.module, arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )
        self.loaded = self._read() or {}

    def limit(self, rounds: int, warmup: int, slow: int | None) -> None:
        """Sets how many rounds it takes part in."""
        if self.installed:
            slow = 1
        self.slow = slow is not None and self.name.startswith("mlx-vlm")
        self.rounds = (slow or 0) if self.slow else rounds + warmup

    def ask(self, **request: Any) -> dict[str, Any] | None:
        """The answer to one request; None if it failed, now or before."""
        if self.failed or self.process is None or self.process.stdin is None:
            return None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer will be missing too
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            self.failed = answer["error"]
            return None
        return answer

    def _last_words(self) -> str:
        assert self.process is not None
        self.process.wait()
        self.said.seek(0)
        said = self.said.read().strip().splitlines()
        return said[-1] if said else f"ended with {self.process.returncode}"

    def stop(self) -> None:
        """Ends the process, which frees its memory."""
        if self.process is not None:
            for stream in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if stream is not None:
                        stream.close()  # it ends when nothing more can be asked
            self.process.wait()
        self.said.close()

    def cold(self, image: Path, prompt: str) -> float | None:
        """Seconds from the start of a new process to the first text of its answer."""
        command, marker = self._command(image, prompt)
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
        while piece := process.stdout.read(4096):
            said += piece
            answer = _text_after(marker, said)
            if seconds is None and answer.strip(b"\n"):
                seconds = time.perf_counter() - started
        process.wait()
        process.stdout.close()
        if seconds is None or process.returncode:
            self.failed = f"a cold start ended with {process.returncode}"
        return seconds

    def _command(self, image: Path, prompt: str) -> tuple[list[str], bytes]:
        """The command of a user, and the text that it prints before the answer."""
        resolution = str(self.settings["resolution"])
        if self.name == "ours":
            command = [self.python, "-m", "fastvlm_mlx", "chat", str(image)]
            command += ["-p", prompt, "--model", str(self.model), "--max-tokens", "4"]
            return [*command, "--resolution", resolution], b""
        if self.name == "transformers":
            # It has no command: the shortest program that answers.
            task = image.with_suffix(".json")
            content = {"model": str(self.model), "prompt": prompt}
            content |= {"image": str(image), "resolution": int(resolution)}
            task.write_text(json.dumps(content))
            return [self.python, "-m", self.module, "once", str(task)], b""
        # mlx_vlm.generate streams with --verbose alone, after showing the prompt.
        start = (
            "import runpy, sys; from fastvlm_mlx.cpu import openblas; "
            f"{'openblas.bind(); ' if self.settings['fast_blas'] else ''}"
            "runpy.run_module('mlx_vlm', run_name='__main__', alter_sys=True)"
        )
        command = [self.python, "-c", start, "generate", "--model", str(self.model)]
        command += ["--image", str(image), "--prompt", prompt, "--verbose"]
        command += ["--max-tokens", "4", "--temperature", "0"]
        return command, b"<|im_start|>assistant\n"


def start(
    name: str,
    models: Mapping[str, Path | None],
    resolution: int,
    folder: Path,
    pythons: dict[str, str],
) -> Peer:
    """Installs and starts one peer; if that fails, `failed` has the reason."""
    layout = "transformers" if name == "transformers" else "llava"
    module, settings = {
        "ours": ("ours", {}),
        "mlx-vlm": ("mlx_vlm_runtime", {"fast_blas": True}),
        "mlx-vlm-installed": ("mlx_vlm_runtime", {"fast_blas": False}),
        "transformers": ("transformers_runtime", {}),
    }[name]
    peer = Peer(
        name=name,
        module=f"benchmarks.peers.{module}",
        python=sys.executable,
        model=models[layout] or Path(),
        settings={"resolution": resolution, **settings},
        installed=name == "mlx-vlm-installed",
    )
    if models[layout] is None:
        peer.failed = f"no model in its layout; give --{layout}-model"
        return peer
    environment = name.removesuffix("-installed")
    try:
        if name != "ours":
            peer.python = pythons.get(environment) or make_environment(
                environment, folder
            )
        peer.start()
    except (OSError, subprocess.SubprocessError) as error:
        peer.said.close()
        words = getattr(error, "stderr", None) or str(error)
        peer.failed = f"not set up: {words.strip().splitlines()[-1]}"
    return peer


def pin(requirement: str) -> None:
    """Installs this version of a package in the environments that need it."""
    package = requirement.partition("==")[0]
    for name, needed in REQUIREMENTS.items():
        REQUIREMENTS[name] = tuple(requirement if n == package else n for n in needed)


def make_environment(name: str, folder: Path) -> str:
    """The Python of an environment in `folder` with the peer's latest release.

    It is made once.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    home = folder / name
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        note(f"installing {' '.join(REQUIREMENTS[name])} for {name} in {home}")
        venv.create(home, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]],
            check=True,
            capture_output=True,
            text=True,
        )
        done.touch()
    return str(python)


def _text_after(marker: bytes, said: bytes) -> bytes:
    """The output after the last `marker`; all of it if the marker is empty."""
    if not marker:
        return said
    return said.rpartition(marker)[2] if marker in said else b""
