"""`eval --page`: what stands in it, that it stands alone, and how it is written."""

import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fastvlm_mlx.app.evaluation import page
from tests.support.eval_sets import write_rows
from tests.support.page_browser import MARKS, browsing, resize

pytest_plugins = ["tests.support.eval_runs"]
ALL = [f"q{number}" for number in range(12)]
EVIL = "<script>alert('x')</script> & \"quoted\" \x1b[31m é"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and all its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def compared(evaluate, asked, data, tmp_path):
    """Writes a page of two resolutions; q0 to q5 are lost, q6 is won by the second."""
    asked.right = {None: ALL[:6], 128: ["q6"]}

    def call(*arguments: object, out: Path = tmp_path / "page.html", code: int = 0):
        options = ("--against", "resolution=128", "--page", out)
        _, err = evaluate(data, *options, *arguments, code=code)
        return out.read_text("utf-8") if code == 0 else err

    return call


def test_what_stands_in_it(compared, tiny):
    text = compared()
    found = Elements(text)
    kinds = [each["class"] for each in found.of("article")]
    assert kinds.count("change lost") == 6 and kinds.count("change won") == 1
    # About one image together: 0.png has q0 and q4.
    assert len(found.of("section")) == 4 == len(found.of("img"))
    words = " ".join(found.text.split())
    assert f"{tiny} against resolution=128" in words
    assert "12 questions, 7 answered otherwise" in words
    assert "All 7" in words and "Lost 6" in words and "Won 1" in words
    assert "What is this? 0" in words and "What is this? 9" not in words
    assert "won 1, lost 6" in words and "p = 0.12" in words
    assert "By category" in words and "resolution=128" in words


def test_its_images_are_small_jpegs(compared, data):
    Image.new("RGB", (2000, 1000), "red").save(data.parent / "1.png")
    found = Elements(compared())
    sizes = set()
    for each in found.of("img"):
        head, _, body = (each["src"] or "").partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(body))) as image:
            assert image.format == "JPEG"
            assert each["width"] == str(image.width)
            sizes.add(image.size)
    assert (page.SIDE, page.SIDE // 2) in sizes


def test_nothing_is_loaded_from_elsewhere(compared):
    text = compared()
    found = Elements(text)
    assert not found.of("script") and not found.of("link") and not found.of("iframe")
    assert all((each["src"] or "").startswith("data:") for each in found.of("img"))
    assert not re.search(r"https?://|@import|url\(", text)
    (policy,) = [
        each["content"]
        for each in found.of("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert (policy or "").startswith("default-src 'none'")
    assert not any(name.startswith("on") for _, each in found.found for name in each)


def test_all_text_is_escaped(evaluate, asked, data, tmp_path):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[0] |= {"question": f"{EVIL}?", "answer": EVIL, "category": "<b>bold</b>"}
    rows[0]["id"] = "<i>id</i>"
    write_rows(data, rows)
    asked.right = {None: ["<i>id</i>"], 128: []}
    asked.wrong = "half an emoji \ud83d, a NUL \x00 and <s>struck</s>"
    out = tmp_path / "page.html"
    options = ("--against", "resolution=128", "--suffix", "<u>end</u>")
    evaluate(data, *options, "--page", out)
    found = Elements(out.read_text("utf-8"))
    for tag in ("script", "b", "i", "u", "s"):
        assert not found.of(tag), tag
    assert "<script>alert('x')</script> & \"quoted\"" in found.text
    for text in ("<b>bold</b>", "<i>id</i>", "<u>end</u>", "<s>struck</s>"):
        assert text in found.text
    assert "half an emoji ?, a NUL " in found.text


def test_an_image_that_cannot_be_opened_has_a_reason(compared, data):
    (data.parent / "1.png").write_bytes(b"no image")
    found = Elements(compared())
    assert len(found.of("img")) == 3
    assert "1.png: not an image" in found.text


def test_no_answer_differs(compared, asked):
    asked.right = {None: ALL, 128: ALL}
    text = compared()
    assert "No answer differs." in text and "<article" not in text


def test_other_answers_with_the_same_score(compared, asked):
    asked.is_told = True
    found = Elements(compared())
    kinds = [each["class"] for each in found.of("article")]
    assert kinds.count("change same") == 5 and len(kinds) == 12
    assert "Same score 5" in found.text and "Won 1" in found.text


def test_marks_between(compared, asked, data):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        row["answers"] = ["yes"] + ["no"] * 2 + ["maybe"] * 7
        del row["answer"]
    write_rows(data, rows)
    text = compared("--metric", "vqa")
    assert 'class="part" data-mark="0.' in text


def test_only_our_page_is_replaced(compared, tmp_path):
    out = tmp_path / "page.html"
    first = compared()
    assert page.is_page(out)
    out.chmod(0o600)
    again = compared("--limit", 12)
    assert again.partition("<footer>")[0] == first.partition("<footer>")[0]
    assert out.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["page.html", "set"]
    out.write_text("<p>mine</p>")
    err = compared(code=1)
    assert "exists and is no page of this program" in err
    assert out.read_text() == "<p>mine</p>"


@pytest.mark.page
@pytest.mark.skipif(MARKS[1].args[0], reason="no chromium and chromedriver here")
def test_in_a_browser(compared, tmp_path):
    out = tmp_path / "page.html"
    compared(out=out)

    def shown() -> list[str]:
        return [
            each.get_attribute("class").split()[-1]
            for each in browser.find_elements("css selector", "article")
            if each.is_displayed()
        ]

    with browsing(tmp_path / "profile") as browser:
        resize(browser, 1180, 800)
        browser.get(out.as_uri())
        assert shown().count("lost") == 6 and shown().count("won") == 1
        browser.find_element("css selector", "label[for=won]").click()
        assert shown() == ["won"]
        cards = browser.find_elements("css selector", ".card")
        assert sum(card.is_displayed() for card in cards) == 1
        browser.find_element("css selector", "label[for=lost]").click()
        assert shown() == ["lost"] * 6
        image = browser.find_element("css selector", "img")
        width = "return arguments[0].naturalWidth"
        assert browser.execute_script(width, image) > 0
        paper = "return getComputedStyle(document.body).backgroundColor"
        light = browser.execute_script(paper)
        resize(browser, 400, 800, dark=True)
        assert browser.execute_script(paper) != light
        wide = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert browser.execute_script(wide)
        assert browser.get_log("browser") == []
