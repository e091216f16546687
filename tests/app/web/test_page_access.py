"""The page by keyboard, by screen reader, on a phone, in dark."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("selenium")

from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.support import page_browser  # noqa: E402
from tests.support.page_browser import resize  # noqa: E402

pytest_plugins = ["tests.support.page_person"]
pytestmark = page_browser.MARKS


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
    page.until(lambda: page.all(".answer") == ["An image."])
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
    page.script.reply = lambda request: "An_unbreakable_word" * 12
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
