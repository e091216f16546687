"""A person at the page: what they do with it and what they see.

`PAGE_SHOTS=FOLDER pytest -m page` leaves screenshots to look at.
"""

import os
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

from tests.support import page_browser  # noqa: E402
from tests.support.mock_model import make_image  # noqa: E402
from tests.support.page_browser import Script, resize  # noqa: E402

SHOWN = """
    return [...document.querySelectorAll(arguments[0])]
      .map((each) => each.checkVisibility() ? each.innerText.trim() : "");
"""


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
        # In one go: the page may draw them anew at any time.
        return self.run(SHOWN, selector)

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
    make_image(1).save(path)
    return path
