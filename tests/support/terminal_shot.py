"""The terminal image of the README: real commands, the real demo model, real output.

    python -m tests.support.terminal_shot

writes docs/images/terminal.png. Every command runs on a pseudo-terminal; rich draws
what it printed as an SVG, and a headless Chromium makes a PNG of that, since an SVG in
a page on GitHub cannot load rich's font.
"""

import io
import os
import shlex
import sys
import tempfile
from pathlib import Path

import pexpect
from PIL import Image
from rich.console import Console
from rich.text import Text

from tests.support.page_browser import browsing
from tests.support.paths import ROOT

OUT = ROOT / "docs" / "images" / "terminal.png"
COLUMNS = 92
ONCE = 'fastvlm-mlx chat examples/number.png -p "Describe the image." -m demo'
CHAT = "fastvlm-mlx chat examples/word.png -m demo --stats"
QUESTIONS = ("Which word is shown?", "What is the color of the sign?")


def spawn(command: str) -> pexpect.spawn:
    """Starts `command` of this environment on a terminal in the checkout."""
    program, *arguments = shlex.split(command)
    return pexpect.spawn(
        str(Path(sys.executable).with_name(program)),
        arguments,
        cwd=ROOT,
        # OpenBLAS' threads spin, so on a busy machine two are slower than one.
        env={**os.environ, "TERM": "dumb", "OPENBLAS_NUM_THREADS": "1"},
        encoding="utf-8",
        timeout=60,
        dimensions=(40, COLUMNS),
        echo=False,  # readline then does not repeat what is typed
    )


def once(command: str) -> str:
    """What a command prints."""
    child = spawn(command)
    child.expect(pexpect.EOF)
    return str(child.before)


def conversation(command: str, questions: tuple[str, ...]) -> list[str]:
    """What a conversation prints before, between and after the questions."""
    child = spawn(command)
    shown: list[str] = []
    for question in questions:
        child.expect_exact("\r\n> ")
        shown.append(str(child.before))
        child.sendline(question)
    child.expect_exact("\r\n> ")
    shown.append(str(child.before))
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    return shown


def session() -> Text:
    """The session, prompts and typed lines in bold."""
    text = Text()

    def typed(prompt: str, line: str) -> None:
        text.append(prompt, "green").append(f"{line}\n", "bold")

    def printed(output: str) -> None:
        text.append(output.replace("\r", "").strip("\n") + "\n")

    typed("$ ", ONCE)
    printed(once(ONCE))
    welcome, *answers = conversation(CHAT, QUESTIONS)
    typed("$ ", CHAT)
    printed(welcome)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        typed("> ", question)
        printed(answer)
    text.append("> ", "green")
    return text


def draw(text: Text, out: Path) -> None:
    """Renders `text` as a terminal window into the PNG `out`."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(text)
    svg = console.export_svg(title="fastvlm-mlx", font_aspect_ratio=0.61)
    # The font's addresses are not needed: the machine's monospace font is used.
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "terminal.html"
        page.write_text(
            "<!doctype html><meta charset=utf-8><style>body{margin:0}"
            f"svg{{width:1180px;display:block}}</style>{svg}",
            encoding="utf-8",
        )
        flags = ("--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1180,1400")
        with browsing(Path(folder) / "profile", *flags) as browser:
            browser.get(page.as_uri())
            element = browser.find_element("css selector", "svg")
            image = Image.open(io.BytesIO(element.screenshot_as_png))
    image.convert("RGB").quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    draw(session(), OUT)
