"""A headless Chromium with a fake camera, and a server with scripted answers.

Only the model is a stub; the server and its headers are the real ones.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from fastvlm_mlx.app.server import serve
from fastvlm_mlx.app.server.engine.request import GenerationRequest, ModelInfo
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.app.server.routes import build
from fastvlm_mlx.generation.stream import Chunk, Timings

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MARKS = [
    pytest.mark.page,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no chromium and chromedriver here"
    ),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--hide-scrollbars"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


@dataclass
class Script:
    """A stub of the engine: answers with `reply`, a word every `pause` seconds."""

    reply: Callable[[GenerationRequest], str] = lambda request: "An image."
    pause: float = 0.01
    ttft: float = 0.087
    asked: list[GenerationRequest] = field(default_factory=list)

    def models(self) -> tuple[ModelInfo, ...]:
        model = ModelInfo(
            name="fastvlm-0.5b",
            context_length=8192,
            family="qwen2",
            parameters=1,
            bytes=1,
            quantization=None,
            vision=True,
        )
        return (model,)

    def stream(self, request: GenerationRequest, cancel: Event) -> Iterator[Chunk]:
        self.asked.append(request)
        time.sleep(self.ttft)
        words = self.reply(request).split(" ")
        for at, word in enumerate(words):
            last = at == len(words) - 1
            finish = "stop" if last else "cancelled" if cancel.is_set() else None
            text = word if last else f"{word} "
            yield Chunk(
                *(
                    text,
                    1,
                    290,
                    100.0,
                    256,
                    0,
                    at + 1,
                    self.ttft,
                    61.0 if at else 0.0,
                    1,
                ),
                timings=Timings(),
                finish_reason=finish,
            )
            if finish:
                return
            time.sleep(self.pause)

    def release_memory(self):
        pass


@contextlib.contextmanager
def serving(script: Any, token: str | None = None) -> Iterator[str]:
    """The URL of a server that answers with `script`."""
    limits = Limits()
    worker = Worker(lambda: script, limits)
    worker.start()
    options = serve.Options(None, "127.0.0.1", 0, token)
    app = build(worker, hosts=serve.known_names(options), token=token)
    server = serve.make_server(app, limits)
    link = serve.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [link]})
    thread.start()
    try:
        yield serve.address(link)
    finally:
        server.should_exit = True
        thread.join()
        worker.close()
        link.close()


@contextlib.contextmanager
def browsing(
    profile: Path, *flags: str, downloads: Path | None = None
) -> Iterator[Any]:
    """A Chromium with a fresh `profile`, quit at the end."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads is not None:
        folder = {"download.default_directory": str(downloads)}
        options.add_experimental_option("prefs", folder)
    browser = Chrome(options, ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def resize(browser: Any, width: int, height: int, *, dark: bool = False):
    """The window's inner size, and the system's colours."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": width < 600}
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
