"""Screenshots of the page for the documentation.

    python -m tests.support.page_shots IMAGE [MODEL]

writes docs/images/page-ask.jpg (light) and page-live.jpg (dark), with IMAGE also
before the camera. Without MODEL the answers are the scripted ones below, and the page
names the model "stand-in".
"""

import io
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fastvlm_mlx.app.server.engine.request import GenerationRequest, ModelInfo
from fastvlm_mlx.app.server.http.limits import Limits
from tests.support.page_browser import Script, browsing, resize, serving
from tests.support.paths import ROOT

IMAGES = ROOT / "docs" / "images"
QUESTIONS = ("Describe the image.", "What is beside it?")
CAPTIONS = (
    "A cup of coffee on a red saucer.",
    "A spoon beside a cup of coffee, on a wooden table.",
    "A red cup and saucer with coffee, seen from above.",
)
ANSWERS = {
    "Describe": "A cup of coffee stands on a red saucer. The coffee is light brown and"
    " nearly fills the cup. The table is of wood, lit from one side.",
    "beside": "A small spoon.",
}


def written(request: GenerationRequest) -> str:
    """The scripted answer."""
    text = request.messages[-1].text
    if "15 words" in text:
        return CAPTIONS[int(time.time() / 0.7) % len(CAPTIONS)]
    return next(answer for word, answer in ANSWERS.items() if word in text)


class StandIn(Script):
    """A script whose model is named "stand-in"."""

    def model_info(self) -> ModelInfo:
        return replace(super().model_info(), name="stand-in")


def film(image: Path, out: Path):
    """A slow tilt over `image`: JPEG frames one after the other."""
    still = Image.open(image).convert("RGB").resize((1280, 853))
    with out.open("wb") as file:
        for top in range(60, 90):
            still.crop((0, top, 1280, top + 720)).save(file, "JPEG", quality=92)


def shoot(page: Any, name: str):
    """Saves what is seen; as JPEG, since most of it is a photograph."""
    page.execute_script("document.activeElement.blur()")
    image = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
    image.save(IMAGES / f"{name}.jpg", quality=84, subsampling=0, optimize=True)


def main(image: Path, model: str | None = None):
    """Takes both."""
    engine: Any = StandIn(reply=written)
    if model is not None:
        from fastvlm_mlx import load
        from fastvlm_mlx.app.server.engine.engine import Engine

        engine = Engine(model, load(model), Limits())
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "camera.mjpeg"
        film(image, frames)
        camera = f"--use-file-for-fake-video-capture={frames}"
        with serving(engine) as url, browsing(Path(folder) / "profile", camera) as page:
            resize(page, 1180, 560)
            page.get(url)
            page.find_element(By.ID, "file").send_keys(str(image.resolve()))
            for question in QUESTIONS:
                time.sleep(1)
                field = page.find_element(By.ID, "question")
                field.send_keys(question, Keys.ENTER)
            time.sleep(3)
            shoot(page, "page-ask")
            resize(page, 1180, 720, dark=True)
            page.get(f"{url}#live")
            page.find_element(By.ID, "start").click()
            time.sleep(5)
            shoot(page, "page-live")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
