"""`fastvlm-mlx watch`: describes what is new, and does something when it fires."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.watch.action import Action
from fastvlm_mlx.app.watch.lines import File, Label, Stdout
from fastvlm_mlx.app.watch.newest import Newest
from fastvlm_mlx.app.watch.shot import Shot, Source
from fastvlm_mlx.app.watch.sources import source_of
from fastvlm_mlx.app.watch.trigger import ANSWERS, Trigger, probability, question_of
from fastvlm_mlx.errors import FastVLMError

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM
    from fastvlm_mlx.generation.sampling import Sampling

_WAIT = 0.5  # seconds for the next image, between looks at `stop`


@dataclass(frozen=True)
class Request:
    """The command line of `watch`."""

    source: str
    prompt: str
    when: str | None
    trigger: Trigger
    action: Action
    out: str | None
    overwrite: bool
    fps: float
    from_start: bool
    model: str | None
    options: session.ConversationOptions
    sampling: "Sampling"
    refresh: bool = False
    adapter: Path | None = None


def run(request: Request) -> None:
    """Watches until the source ends, or SIGINT or SIGTERM comes."""
    check(request)
    terminal.check_stdout()
    source = source_of(request.source, rate=request.fps, from_start=request.from_start)
    source.open()
    with stop_signals() as stop:
        name = session.choose_model(request.model)
        label = Label(
            source=source.name,
            model=session.tuned_name(name, request.adapter),
            prompt=request.prompt,
            when=request.when or "",
        )
        with closing(_output(request, label)) as output:
            _, model = session.open_model(
                name, refresh=request.refresh, adapter=request.adapter
            )
            watch = Watch(request, source, label, model, output, stop)
            watch.resume(output.begin())
            watch.run()


def check(request: Request) -> None:
    """Checks the options.

    Raises:
        UsageError: one of them cannot be meant.
    """
    if not request.prompt.strip():
        raise session.UsageError("'-p' is empty; try -p 'Describe the image.'")
    if request.when is not None and not request.when.strip():
        raise session.UsageError("--when is empty; say what to look for")
    if not 0.01 <= request.fps <= 60:
        raise session.UsageError(
            f"--fps {request.fps:g}: give 0.01 to 60 looks a second"
        )


def _output(request: Request, label: Label) -> "File | Stdout":
    if request.out is None or request.out == "-":
        return Stdout()
    path = Path(request.out).expanduser()
    return File(path, label, overwrite=request.overwrite)


class Watch:
    """The loop: takes the newest image, and asks about it if it shows something new.

    - `looked`: images that were compared.
    - `new`: those that showed something new.
    - `fired`: how often it did.
    """

    def __init__(
        self,
        request: Request,
        source: Source,
        label: Label,
        model: "FastVLM",
        output: "File | Stdout",
        stop: threading.Event,
    ):
        from fastvlm_mlx.processing.video import ChangeDetector

        self.looked = self.new = self.fired = 0
        self._request, self._source, self._label = request, source, label
        self._model, self._output, self._stop = model, output, stop
        self._trigger = request.trigger
        self._detector = ChangeDetector()
        self._skip_first = False

    def resume(self, lines: list[dict[str, Any]]) -> None:
        """Goes on where the lines of an earlier run end."""
        if not lines:
            return
        self._trigger.active = bool(lines[-1].get("active"))
        from fastvlm_mlx.app.watch import folder, stream

        source = self._source
        if isinstance(source, folder.FolderSource):
            source.done = {
                folder.identity(line.get("image"), line.get("modified"))
                for line in lines
            }
            described = [line for line in lines if not line.get("unchanged")]
            known = folder.baseline(described[-1]["image"]) if described else None
            if known is not None:
                self._detector.is_new(known)
        elif isinstance(source, stream.VideoSource) and "position" in lines[-1]:
            if "://" not in source.name[:16]:
                source.start = lines[-1]["position"]
                self._skip_first = True

    def run(self) -> None:
        """Watches; says at the end how much there was."""
        newest = Newest(self._source, self._stop)
        newest.start()
        if sys.stderr.isatty():  # for a while nothing else may be said
            terminal.note(f"watching {self._source.name}; Ctrl-C ends it")
        begun = time.monotonic()
        try:
            while not self._stop.is_set():
                look = time.monotonic()
                shot = newest.take(_WAIT)
                if shot is not None:
                    self._look_at(shot)
                elif newest.ended:
                    break
                if not self._source.keeps_all:
                    pause = look + 1 / self._request.fps - time.monotonic()
                    self._stop.wait(max(0.0, pause))
        finally:
            self._stop.set()
            self._summarize(newest.read, time.monotonic() - begun)
            newest.join(2.0)

    def _look_at(self, shot: Shot) -> None:
        self.looked += 1
        try:
            is_new = self._detector.is_new(shot.thumbnail())
        except FastVLMError as error:  # a file that is no image
            self._output.write(self._label.line(shot, error=terminal.describe(error)))
            return
        if self._skip_first:  # the earlier run has its line
            self._skip_first = False
            return
        if is_new:
            self.new += 1
            self._ask(shot)
        elif shot.name is not None:  # a file has a line, so that it is not asked again
            active = self._trigger.active if self._request.when else None
            self._output.write(self._label.line(shot, unchanged=True, active=active))

    def _ask(self, shot: Shot) -> None:
        image = shot.image()
        values: dict[str, Any] = {}
        fires = True
        if self._request.when is not None:
            found = self._choose(image)
            fires = self._trigger.update(found)
            values = {"probability": round(found, 4), "active": self._trigger.active}
            values["fired"] = fires
        if fires:
            values["answer"] = self._answer(image)
            if self._stop.is_set():
                return  # half an answer is none
        line = self._label.line(shot, **values)
        if fires:
            self.fired += 1
            # Before the line is written: killed in between, it is done once more, and
            # never left out.
            if self._request.action:
                fault = self._request.action.do(line.fields(), self._stop)
                if fault is not None:
                    terminal.note(f"warning: {fault}")
        self._output.write(line)

    def _choose(self, image: Any) -> float:
        options = self._request.options
        return probability(
            self._model.choose(
                question_of(self._request.when or ""), image, ANSWERS, **vars(options)
            )
        )

    def _answer(self, image: Any) -> str:
        sampling = self._request.sampling
        conversation = self._request.options.conversation(self._model)
        chunks = conversation.answer(
            self._request.prompt, image, sampling, cancel=self._stop
        )
        return "".join(chunk.text for chunk in chunks).strip()

    def _summarize(self, read: int, seconds: float) -> None:
        saved = 100 * (1 - self.new / self.looked) if self.looked else 0.0
        text = (
            f"{read} images in {seconds:.1f} s, {self.looked} looked at,"
            f" {self.new} new: {saved:.1f} % not encoded"
        )
        if self._request.when is not None or self._request.action:
            text += f"; fired {self.fired} times"
        terminal.note(text)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the second SIGINT is a KeyboardInterrupt.

    Until something waits for it, as while a model is loaded, the first one is a
    KeyboardInterrupt too if it comes twice.
    """
    stop = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    former = {
        number: signal.signal(number, press)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
