"""Asks an OpenAI-compatible server the questions of a benchmark, several at once.

The official `openai` client sends them, and tries again after what may pass: a busy
server, a lost connection, an error 500. Images are sent as data: URLs.
"""

import base64
import io
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image as PILImage

from fastvlm_mlx.data.image_reference import Image
from fastvlm_mlx.errors import FastVLMError, OptionError, ServerError, quoted
from fastvlm_mlx.evaluation.ask import BATCH, MAX_TOKENS, Answer, failed
from fastvlm_mlx.evaluation.question import Question, prompt_of
from fastvlm_mlx.files.installation import pip_install
from fastvlm_mlx.processing import pdf
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_source import name_of, read_path, read_url

TIMEOUT = 600.0  # seconds that an answer may take; a busy server has others first
_STARTS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
}


def base_address(url: str) -> str:
    """The address that requests go below: `url`, with /v1 where it has no path.

    Raises:
        OptionError: it is no http or https address.
    """
    try:
        parts = urlsplit(url.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        valid, parts = False, None
    if not valid or parts is None:
        raise OptionError(
            f"--url {url or repr('')}: give an address such as http://127.0.0.1:8000"
        )
    return url.strip() if parts.path.strip("/") else f"{url.strip().rstrip('/')}/v1"


def ask_server(
    url: str,
    model: str,
    questions: Sequence[Question],
    *,
    suffix: str = "",
    system: str | None = None,
    max_tokens: int = MAX_TOKENS,
    batch: int = BATCH,
    api_key: str | None = None,
) -> Generator[Answer, None, None]:
    """The answers of a server at temperature 0, each as soon as it is known.

    What the server says of one question alone is that question's error.

    Args:
        url: its address; /v1 is added where it has no path.
        model: the name that the server knows.
        questions: those to ask.
        suffix: what every prompt ends with; see `prompt_of`.
        system: the system prompt; None sends none.
        max_tokens: the length of an answer at most.
        batch: requests at once.
        api_key: the key; None: OPENAI_API_KEY, or none.
    Raises:
        OptionError: `url` is no address, or `openai` is not installed.
        ServerError: nobody answers at `url`, or it refuses the key or the model.
    """
    openai = import_openai()
    client = openai.OpenAI(
        base_url=base_address(url),
        api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
        timeout=TIMEOUT,
    )

    def asked(question: Question) -> Answer:
        content = [_image_part(image) for image in question.load_images()]
        content.append({"type": "text", "text": prompt_of(question, suffix)})
        messages: list[Any] = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return _read(
            question,
            client.chat.completions.create(
                model=model, messages=messages, max_tokens=max_tokens, temperature=0
            ),
        )

    def attempt(question: Question) -> Answer:
        try:
            return asked(question)
        except FastVLMError as fault:
            return failed(question, fault)
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as fault:
            way_out = "check MODEL" if fault.status_code == 404 else "check --api-key"
            raise ServerError(f"{url}: {_said(fault)}; {way_out}") from fault
        except openai.APITimeoutError:
            return failed(question, f"no answer in {TIMEOUT:g} s; is the server busy?")
        except openai.APIConnectionError as fault:
            reason = quoted(fault.__cause__ or fault)
            raise ServerError(
                f"{url}: no connection ({reason}); start the server, and run the same"
                " command again"
            ) from fault
        except openai.OpenAIError as fault:
            return failed(question, _said(fault))
        # A 200 whose body is no JSON, or not of a chat completion's shape.
        except (ValueError, TypeError, AttributeError, LookupError) as fault:
            return failed(question, f"the server sent no answer: {quoted(fault)}")

    try:
        yield from _at_once(questions, attempt, batch)
    finally:
        client.close()


def _at_once(
    questions: Sequence[Question], attempt: Callable[[Question], Answer], threads: int
) -> Iterator[Answer]:
    """What `attempt` gives for each question, as it comes.

    Threads of our own: those of a pool are waited for at the end of the program, and
    nobody waits for answers after Ctrl-C.
    """
    waiting: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
    found: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
    for each in (*questions, *[None] * threads):
        waiting.put(each)
    stopped = threading.Event()

    def work() -> None:
        while (question := waiting.get()) is not None and not stopped.is_set():
            try:
                found.put(attempt(question))
            except BaseException as fault:
                found.put(fault)

    for _ in range(min(threads, len(questions))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in questions:
            each = found.get()
            if isinstance(each, BaseException):
                raise each
            yield each
    finally:
        stopped.set()


def _read(question: Question, response: Any) -> Answer:
    choices = getattr(response, "choices", None)
    if not choices:  # the client gives a page of HTML as a text
        raise ValueError("what came has no choices; does --url lead to its /v1?")
    choice = choices[0]
    text, reason = choice.message.content, choice.finish_reason
    if not isinstance(text, str):
        raise ValueError("a message without text")
    return Answer(question, text, "length" if reason == "length" else "stop")


def _image_part(image: Image) -> dict[str, Any]:
    name = name_of(image)
    if isinstance(image, bytes):
        data = image
    elif isinstance(image, str) and "://" in image[:16]:
        data = read_url(pdf.split_page(image)[0], name)
    else:
        found = read_path(pdf.split_page(image)[0], name)
        data = found.read_bytes() if isinstance(found, Path) else found
    kind = next((kind for head, kind in _STARTS.items() if data.startswith(head)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:  # which few servers open
        # Of a PDF it is the page that the name says.
        page = None if isinstance(image, bytes) else pdf.split_page(image)[1]
        kind, data = "image/png", _as_png(open_image(data, page=page))
    text = base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{text}"}}


def _as_png(image: PILImage.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _said(fault: Any) -> str:
    """What the server said, as one line with its status."""
    status = getattr(fault, "status_code", None)
    body = getattr(fault, "body", None)
    words = body.get("message") if isinstance(body, dict) else None
    text = quoted(words or fault)
    return f"the server answered {status}: {text}" if status and words else text


def import_openai() -> Any:
    """The module `openai`.

    Raises:
        OptionError: it is not installed; with the command that does it.
    """
    try:
        import openai
    except ImportError as fault:
        raise OptionError(
            f"--url needs the package openai; {pip_install('openai')}"
        ) from fault
    return openai
