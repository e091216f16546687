"""Screenshots of the server's page with the real demo model, for the documentation.

    python -m tests.support.page_shots

writes docs/images/page-ask.png (light: a question and its answers) and page-live.png
(dark: the camera, which a film of the example images stands in for).
"""

import io
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from fastvlm_mlx import load
from fastvlm_mlx.app.server.engine.engine import Engine
from fastvlm_mlx.app.server.http.limits import Limits
from tests.support.page_browser import browsing, resize, serving
from tests.support.paths import EXAMPLES, ROOT

IMAGES = ROOT / "docs" / "images"
ASKED = EXAMPLES / "word.png"
QUESTIONS = ("Describe the image.", "Does the sign say MUSIC?")
FILMED = ("number.png", "word.png", "beach.png")
SIDE = 720  # pixels of the camera: square, as the example images are
FRAMES = 120  # of each image, at Chromium's 30 a second

LISTED = "return document.querySelectorAll('#history > *').length"
# The caption over the image is the newest of the list, so it is whole.
SETTLED = """
const newest = document.querySelector("#history > *").textContent;
const shown = document.getElementById("live-caption").textContent;
return Boolean(shown) && newest.includes(shown.trim()) && shown.trim().endsWith(".")
"""


def film(out: Path) -> None:
    """A camera's film: the example images one after the other, as JPEG frames."""
    with out.open("wb") as file:
        for name in FILMED:
            image = Image.open(EXAMPLES / name).convert("RGB")
            image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            for _ in range(FRAMES):
                image.save(file, "JPEG", quality=95)


def shoot(page: Any, name: str) -> None:
    """Saves what is seen."""
    page.execute_script("document.activeElement.blur()")
    image = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
    image.quantize(256).save(IMAGES / f"{name}.png", optimize=True)


def ask(page: Any, questions: tuple[str, ...]) -> None:
    """Attaches the image and asks, waiting for each answer to end."""
    page.find_element(By.ID, "file").send_keys(str(ASKED))
    for question in questions:
        time.sleep(1)
        page.find_element(By.ID, "question").send_keys(question, Keys.ENTER)
        time.sleep(4)


def watch(page: Any) -> None:
    """Starts the camera with a short question and waits for some captions."""
    for field, text in (("prompt", "Describe the image."), ("suffix", "")):
        element = page.find_element(By.ID, field)
        element.clear()
        element.send_keys(text)
    page.find_element(By.ID, "start").click()
    WebDriverWait(page, 60, 0.05).until(lambda _: page.execute_script(LISTED) >= 5)
    # The image has just changed, and stays for some seconds.
    time.sleep(1)
    WebDriverWait(page, 20, 0.02).until(lambda _: page.execute_script(SETTLED))


def main() -> None:
    """Takes both."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    engine = Engine("demo", load("demo"), Limits())
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "camera.mjpeg"
        film(frames)
        camera = f"--use-file-for-fake-video-capture={frames}"
        profile = Path(folder) / "profile"
        with serving(engine) as url, browsing(profile, camera) as page:
            resize(page, 1180, 620)
            page.get(url)
            ask(page, QUESTIONS)
            shoot(page, "page-ask")
            resize(page, 1180, 780, dark=True)
            page.get(f"{url}#live")
            watch(page)
            shoot(page, "page-live")


if __name__ == "__main__":
    main()
