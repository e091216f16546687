"""The page in a real browser: pictures, follow-ups, the camera, keyboard, phone, dark.

`PAGE_SHOTS=FOLDER pytest tests/test_page.py` leaves screenshots to look at.
"""

import base64
import hashlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("selenium")

from PIL import Image  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from fastvlm_mlx.app.server.question import Question  # noqa: E402
from fastvlm_mlx.errors import ImageError  # noqa: E402
from tests import page_browser  # noqa: E402
from tests.mock_model import picture  # noqa: E402
from tests.page_browser import Script, resize  # noqa: E402

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(
        not (page_browser.BROWSER and page_browser.DRIVER),
        reason="no chromium and chromedriver here",
    ),
]

PROMPT = "Describe the image in English."
SUFFIX = "Output should be brief, about 15 words or less."


class Page:
    """What a person does with the page, and what they see."""

    def __init__(self, browser: Any, url: str, script: Script):
        self.browser, self.url, self.script = browser, url, script

    def open(self, fragment: str = ""):
        self.browser.get("about:blank")
        self.browser.get(self.url + fragment)
        self.until(lambda: self.told("model") or self["door"].is_displayed())

    def __getitem__(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self[name].text

    def told(self, name: str) -> str:
        """Also of what is not shown."""
        return self[name].get_attribute("textContent")

    def all(self, selector: str) -> list[str]:
        found = self.browser.find_elements(By.CSS_SELECTOR, selector)
        return [each.text for each in found]

    def run(self, code: str, *arguments: object) -> Any:
        return self.browser.execute_script(code, *arguments)

    def keys(self, *keys: str):
        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self) -> str:
        return self.run(
            "const e = document.activeElement; return e.id || e.textContent"
        ).strip()

    def until(self, condition: Any, seconds: float = 30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "did not happen"
            time.sleep(0.03)

    def look_at(self, path: Path):
        self["file"].send_keys(str(path))
        self.until(lambda: self.focused() == "question")

    def shoot(self, name: str):
        if folder := os.environ.get("PAGE_SHOTS"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the browser's console says, such as violations of the policy."""
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory, downloads):
    profile = tmp_path_factory.mktemp("profile")
    with page_browser.browsing(profile, downloads=downloads) as browser:
        yield browser


@pytest.fixture
def page(browser):
    script = Script()
    resize(browser, 1280, 800)
    browser.get_log("browser")  # what was there before
    with page_browser.serving(script) as url:
        yield Page(browser, url, script)
        browser.get("about:blank")


@pytest.fixture
def cat(tmp_path) -> Path:
    path = tmp_path / "cat.png"
    picture(1).save(path)
    return path


def answered(question: Question) -> str:
    """An answer that tells how much of the conversation the server was sent."""
    last = question.messages[-1]
    return f"{len(question.messages)} messages, the last says: {last.text}"


def opened(data: bytes | str) -> Image.Image:
    """A picture as the server was sent it."""
    assert isinstance(data, bytes)
    return Image.open(io.BytesIO(data))


def test_ask_and_follow_up(page, cat):
    page.script.reply = answered
    page.open()
    assert page.text("model") == "fastvlm-0.5b"
    assert page["live"].is_displayed() is False
    page.shoot("empty-light")
    page.look_at(cat)
    assert page.text("about") == "40 × 30"
    page.keys("What is this?", Keys.ENTER)
    page.until(
        lambda: page.all(".answer") == ["1 messages, the last says: What is this?"]
    )
    assert page.all("article h2") == ["What is this?"]
    page.until(lambda: page.all(".numbers")[0].endswith("61 tokens a second"))
    assert page.all(".numbers .badge")[0].startswith("TTFT ")
    page.keys("And")
    chain = ActionChains(page.browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER)
    chain.key_up(Keys.SHIFT).send_keys("now?", Keys.ENTER).perform()
    told = "3 messages, the last says: And\nnow?"
    page.until(lambda: page.all(".answer")[1:] == [told])
    page.until(lambda: page.told("status") == told)  # once, when it is whole
    first, second = page.script.asked
    assert second.messages[:1] == first.messages and first.sampling["temperature"] == 0
    assert second.messages[1].text == "1 messages, the last says: What is this?"
    assert [len(message.pictures) for message in second.messages] == [1, 0, 0]
    # The file itself, not a copy that the browser encoded again.
    assert first.messages[0].pictures[0] == cat.read_bytes()
    page.shoot("chat-light")
    assert page.complaints() == []


def test_drop_and_paste(page, cat):
    page.open()
    event = """
        const [kind, type, data] = arguments;
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt());
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "x", { type }));
        const options = { bubbles: true, cancelable: true };
        document.querySelector("main").dispatchEvent(kind === "drop"
          ? new DragEvent("drop", { ...options, dataTransfer: transfer })
          : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
    """
    png = base64.b64encode(cat.read_bytes()).decode()
    page.run(event, "drop", "image/png", png)
    page.until(lambda: page.text("about") == "40 × 30")
    page.keys("One", Keys.ENTER)
    page.until(lambda: page.all(".answer") == ["A picture."])
    # Another picture begins another conversation; what the server may not open is
    # drawn again.
    bitmap = io.BytesIO()
    picture(2, (50, 20)).save(bitmap, "BMP")
    page.run(event, "paste", "image/bmp", base64.b64encode(bitmap.getvalue()).decode())
    page.until(lambda: page.text("about") == "50 × 20")
    assert page.all("article") == []
    page.keys("Two", Keys.ENTER)
    page.until(lambda: len(page.script.asked) == 2)
    (message,) = page.script.asked[1].messages
    seen = opened(message.pictures[0])
    assert (
        seen.format == "PNG"
        and seen.convert("RGB").tobytes() == picture(2, (50, 20)).tobytes()
    )
    page.run(event, "drop", "image/png", base64.b64encode(b"no").decode())
    page.until(lambda: "is not a picture" in page.text("trouble"))


def test_an_answer_can_be_stopped(page, cat):
    page.script.reply = lambda question: "word " * 500
    page.script.pause = 0.02
    page.open()
    page.look_at(cat)
    page.keys("Talk", Keys.ENTER)
    page.until(lambda: "word word" in (page.all(".answer") or [""])[0])
    assert page["send"].get_attribute("aria-label") == "Stop"
    page.keys(Keys.ESCAPE)
    page.until(lambda: page["send"].get_attribute("aria-label") == "Ask")
    shown = page.all(".answer")[0]
    page.script.reply = answered
    page.keys("Go on", Keys.ENTER)
    page.until(lambda: page.all(".answer")[1:] == ["3 messages, the last says: Go on"])
    assert page.all(".answer")[0] == shown
    assert page.script.asked[1].messages[1].text.strip() == shown.strip()


def test_what_goes_wrong_is_said(page, cat):
    def fail(question: Question) -> str:
        raise ImageError("cat.png: is a dog")

    page.script.reply = fail
    page.open()
    page.look_at(cat)
    page.keys("What is this?", Keys.ENTER)
    page.until(lambda: page.text("trouble") == "cat.png: is a dog")
    # The question is not lost.
    assert page["question"].get_attribute("value") == "What is this?"
    assert page.all("article") == []


def test_live_captions(page, downloads):
    seen: list[str] = []

    def reply(question: Question) -> str:
        (message,) = question.messages
        frame = opened(message.pictures[0])
        assert max(frame.size) <= 1024
        seen.append(hashlib.sha256(frame.tobytes()).hexdigest())
        return f"Frame {len(seen)} of {message.text}"

    page.script.reply, page.script.pause = reply, 0.005
    page.open("#live")
    assert page["pause"].is_enabled() is False
    page["start"].click()
    page["cap"].send_keys("no limit")
    page.until(lambda: len(page.all("#history li")) >= 4)
    assert page.all(".badge")[0].startswith("TTFT ")
    page.until(lambda: page.all(".badge")[1].endswith(" a second"))
    assert page.text("live-caption").startswith("Frame")
    page.shoot("live-light")
    # One question after the other, each of a frame that is new.
    assert len(set(seen)) == len(seen) > len(page.script.asked) - 2
    assert all(q.messages[0].text == f"{PROMPT} {SUFFIX}" for q in page.script.asked)
    assert "Frame" in page.told("status")

    page["pause"].click()
    assert page.text("pause") == "Go on" and page.run("return video.paused")
    time.sleep(0.3)
    asked = len(page.script.asked)
    time.sleep(0.5)
    assert len(page.script.asked) == asked
    # At most two a second.
    page["cap"].send_keys("2 a second")
    page["preset"].send_keys("Read text")
    page["pause"].click()
    begun = time.monotonic()
    page.until(lambda: len(page.script.asked) >= asked + 4)
    assert time.monotonic() - begun > 1.2
    question = "What is written in this image? Output only the text in the image."
    assert page.script.asked[-1].messages[0].text == question
    page["suffix"].send_keys(" Now.")
    page.until(lambda: page.script.asked[-1].messages[0].text.endswith("image. Now."))
    assert page.run("return preset.selectedOptions[0].text") == "Your own"

    page["pause"].click()
    page["save"].click()
    page.until(lambda: list(downloads.glob("captions*.tsv")))
    (saved,) = downloads.glob("captions*.tsv")
    rows = [line.split("\t") for line in saved.read_text().splitlines()]
    assert len(rows) >= 8 and all(len(row) == 3 for row in rows)
    assert rows[0][1].endswith(" ms") and rows[0][2].startswith("Frame 1 of Describe")
    for name in ("clipboard-read", "clipboard-write"):
        page.browser.execute_cdp_cmd(
            "Browser.setPermission",
            {"permission": {"name": name}, "setting": "granted"},
        )
    page["copy"].click()
    page.until(lambda: page.told("status") == "Copied")
    copied = page.browser.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0])"
    )
    assert copied == saved.read_text()
    # The camera is off as soon as one leaves.
    page.run("location.hash = 'ask'")
    page.until(lambda: page.run("return video.srcObject === null"))
    assert page.complaints() == []


def test_keyboard_alone(page, cat):
    """All of it can be reached and done with keys, in the order of the page."""
    page.open()
    order = []
    for _ in range(3):
        page.keys(Keys.TAB)
        order.append(page.focused())
    assert order == ["Ask", "Live", "file"]
    # What Space opens here is the system's own dialog; a driver fills in its answer.
    page.browser.switch_to.active_element.send_keys(str(cat))
    page.until(lambda: page.focused() == "question")
    page.keys(Keys.TAB, Keys.TAB, Keys.SPACE)  # past Ask, to the first suggestion
    page.until(lambda: page.all(".answer") == ["A picture."])
    assert page.all("article h2") == ["Describe the image."]

    page.run("document.querySelector('nav a').focus()")
    page.keys(Keys.TAB, Keys.ENTER)
    page.until(lambda: page["live"].is_displayed())
    page.keys(Keys.TAB)
    assert page.focused() == "start"
    page.keys(Keys.ENTER)
    page.until(lambda: page.focused() == "pause")
    page.until(lambda: page.all("#history li"))
    page.keys(Keys.SPACE)
    assert page.text("pause") == "Go on"
    order = []
    for _ in range(8):
        page.keys(Keys.TAB)
        order.append(page.focused())
    assert order == "preset cap prompt suffix copy save clear history".split()
    ring = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(ring) == "solid"


def test_a_screen_reader_finds_names(page, cat):
    """Whatever takes the focus says what it is, in both modes."""
    page.open()
    page.look_at(cat)
    for mode in ("ask", "live"):
        page.run("location.hash = arguments[0]", mode)
        page.until(lambda mode=mode: page[mode].is_displayed())
        tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node.get("ignored")
            and any(p["name"] == "focusable" for p in node.get("properties", []))
            and node["role"]["value"] not in ("RootWebArea", "generic")
            and not node.get("name", {}).get("value")
        ]
        assert nameless == []
        roles = {node["role"]["value"] for node in tree if not node.get("ignored")}
        assert {"main", "navigation", "banner", "status"} <= roles


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False), (320, True)])
def test_narrow_and_dark(page, cat, width, dark):
    page.script.reply = lambda question: "An_unbreakable_word" * 12
    resize(page.browser, width, 720, dark=dark)
    page.open()
    page.shoot(f"empty-{width}-{dark}")
    page.look_at(cat)
    page.keys("Long" * 40, Keys.ENTER)
    page.until(lambda: page.all(".answer") == ["An_unbreakable_word" * 12])
    page.shoot(f"chat-{width}-{dark}")
    fits = "return document.documentElement.scrollWidth <= innerWidth"
    assert page.run(fits)
    box = page["send"].rect
    assert box["x"] + box["width"] <= width and box["y"] + box["height"] <= 720
    assert min(page.run(CONTRASTS)) >= 4.5
    lightness = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, lightness[4:-1].split(","))) < 100) is dark
    page.run("location.hash = 'live'")
    page["start"].click()
    page.until(lambda: page.all("#history li"))
    page.shoot(f"live-{width}-{dark}")
    assert page.run(fits)
    assert min(page.run(CONTRASTS)) >= 4.5


# Contrast of every piece of text on a plain background (WCAG 2, relative luminance).
CONTRASTS = """
    const light = (colour) => {
      const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const solid = (e) => {
      const colour = getComputedStyle(e).backgroundColor;
      return /^rgb\\(/.test(colour) ? colour : solid(e.parentElement);
    };
    return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
        && !e.closest(".stage:not([data-state=off]), nav, .hidden, :disabled")
        && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
      .map((e) => [light(getComputedStyle(e).color), light(solid(e))])
      .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
"""


def test_the_token_is_asked_for_once(browser, cat):
    resize(browser, 1280, 800)
    script = Script()
    with page_browser.serving(script, token="open sesame") as url:
        page = Page(browser, url, script)
        page.open()
        assert page["door"].is_displayed() and page.focused() == "token"
        page.shoot("token")
        page.keys("wrong", Keys.ENTER)
        page.until(lambda: page["token"].get_attribute("value") == "")
        page.until(lambda: page["door"].is_displayed())
        page.keys("open sesame", Keys.ENTER)
        page.until(lambda: page.text("model") == "fastvlm-0.5b")
        assert not page["door"].is_displayed()
        page.open()  # the same tab remembers
        assert not page["door"].is_displayed()
        page.look_at(cat)
        page.keys("Well?", Keys.ENTER)
        page.until(lambda: page.all(".answer") == ["A picture."])
        assert "sesame" not in browser.current_url
        assert json.loads(page.run("return JSON.stringify(localStorage)")) == {}
    browser.get("about:blank")
    browser.get_log("browser")  # the refusals


def test_the_real_server(browser, reference, cat):
    """With a model behind it, tiny and untaught as it is."""
    from tests.serving import running

    with running(reference / "llava-mini") as server:
        page = Page(browser, f"{server.url}/", Script())
        page.open()
        assert page.text("model") == "tiny"
        page.look_at(cat)
        page.keys("Hello", Keys.ENTER)
        page.until(lambda: page.all(".numbers .badge"))
        page.keys(Keys.ESCAPE)
        browser.get("about:blank")
