"""The page in a real browser: images, follow-ups, the camera, the token."""

import base64
import hashlib
import io
import json
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("selenium")

from PIL import Image  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

from fastvlm_mlx.app.server.engine.request import GenerationRequest  # noqa: E402
from fastvlm_mlx.errors import ImageError  # noqa: E402
from tests.support import page_browser  # noqa: E402
from tests.support.mock_model import make_image  # noqa: E402
from tests.support.page_browser import Script  # noqa: E402

pytest_plugins = ["tests.support.page_person"]
pytestmark = page_browser.MARKS

PROMPT = "Describe the image in English."
SUFFIX = "Output should be brief, about 15 words or less."


def answered(request: GenerationRequest) -> str:
    """An answer that tells how much of the conversation the server was sent."""
    last = request.messages[-1]
    return f"{len(request.messages)} messages, the last says: {last.text}"


def opened(data: bytes | str) -> Image.Image:
    """An image as the server was sent it."""
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
    assert [len(message.images) for message in second.messages] == [1, 0, 0]
    # The file itself, not a copy that the browser encoded again.
    assert first.messages[0].images[0] == cat.read_bytes()
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
    page.until(lambda: page.all(".answer") == ["An image."])
    # Another image begins another conversation; what the server may not open is
    # drawn again.
    bitmap = io.BytesIO()
    make_image(2, (50, 20)).save(bitmap, "BMP")
    page.run(event, "paste", "image/bmp", base64.b64encode(bitmap.getvalue()).decode())
    page.until(lambda: page.text("about") == "50 × 20")
    assert page.all("article") == []
    page.keys("Two", Keys.ENTER)
    page.until(lambda: len(page.script.asked) == 2)
    (message,) = page.script.asked[1].messages
    seen = opened(message.images[0])
    assert (
        seen.format == "PNG"
        and seen.convert("RGB").tobytes() == make_image(2, (50, 20)).tobytes()
    )
    page.run(event, "drop", "image/png", base64.b64encode(b"no").decode())
    page.until(lambda: "is not an image" in page.text("trouble"))


def test_an_answer_can_be_stopped(page, cat):
    page.script.reply = lambda request: "word " * 500
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
    def fail(request: GenerationRequest) -> str:
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

    def reply(request: GenerationRequest) -> str:
        (message,) = request.messages
        frame = opened(message.images[0])
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
    started = time.monotonic()
    page.until(lambda: len(page.script.asked) >= asked + 4)
    assert time.monotonic() - started > 1.2
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


def test_the_token_is_asked_for_once(page, cat):
    script = Script()
    with page_browser.serving(script, token="open sesame") as url:
        page = type(page)(page.browser, url, script)
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
        page.until(lambda: page.all(".answer") == ["An image."])
        assert "sesame" not in page.browser.current_url
        assert json.loads(page.run("return JSON.stringify(localStorage)")) == {}
        page.browser.get("about:blank")


def test_the_real_server(page, reference, cat):
    """With a model behind it, tiny and untaught as it is."""
    from tests.support.serving import running

    with running(reference / "llava-mini") as server:
        page = type(page)(page.browser, f"{server.url}/", Script())
        page.open()
        assert page.text("model") == "tiny"
        page.look_at(cat)
        page.keys("Hello", Keys.ENTER)
        page.until(lambda: page.all(".numbers .badge"))
        page.keys(Keys.ESCAPE)
        page.browser.get("about:blank")


def test_a_model_with_an_adapter_can_be_chosen(page, reference, cat, tmp_path):
    from fastvlm_mlx import load
    from fastvlm_mlx.adapters.files import write_adapter
    from fastvlm_mlx.adapters.spec import AdapterSpec
    from tests.support.serving import running
    from tests.support.small_adapters import make_adapter

    model = load(reference / "llava-mini")
    write_adapter(tmp_path / "flags", make_adapter(model, AdapterSpec(rank=2)))
    with running(reference / "llava-mini", adapters=[tmp_path / "flags"]) as server:
        page = type(page)(page.browser, f"{server.url}/", Script())
        page.open()
        names = (
            "return [...document.querySelectorAll('#model option')].map(o => o.value)"
        )
        page.until(lambda: page.run(names) == ["tiny", "tiny:flags"])
        asked: list[str] = []
        submit = server.worker.submit

        def noted(request: GenerationRequest):
            asked.append(request.model)
            return submit(request)

        server.worker.submit = noted
        Select(
            page.browser.find_element("css selector", "#model select")
        ).select_by_value("tiny:flags")
        page.look_at(cat)
        page.keys("Hello", Keys.ENTER)
        page.until(lambda: page.all(".numbers .badge"))
        page.keys(Keys.ESCAPE)
        page.browser.get("about:blank")
    assert set(asked) == {"tiny:flags"}
