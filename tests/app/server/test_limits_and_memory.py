"""The limits that docs/server.md names, and what the server remembers of requests."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.engine import images, schema_check  # noqa: E402
from fastvlm_mlx.app.server.engine.images import Images  # noqa: E402
from fastvlm_mlx.app.server.http.errors import one_line  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.errors import ImageError  # noqa: E402
from fastvlm_mlx.processing.image_options import ImageOptions  # noqa: E402
from tests.support.missing_extras import pretend_missing  # noqa: E402
from tests.support.mock_model import MockModel  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402
from tests.support.small_images import encoded  # noqa: E402


def test_the_page_names_the_limits():
    page = " ".join(Path(ROOT, "docs", "server.md").read_text().split())
    limits = Limits()
    for said in (
        f"{limits.body >> 20} MB per body ({limits.bodies >> 20} MB for all",
        f"{limits.images} images and {limits.pixels // 10**6} megapixels per request",
        f"{limits.header_time:g} seconds for a request's head, {limits.body_time:g} f",
        f"{limits.fetch_time:g} seconds at most, name lookups",
    ):
        assert said in page


def test_what_is_quoted_of_a_request_is_short():
    assert one_line("x" * 100) == "x" * 100
    assert one_line("x" * 101) == "x" * 100 + "..."
    assert one_line("a\nb") == "a?b"


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch):
    compiled: list[str] = []

    def compile_error(text: str) -> str:
        compiled.append(text)
        return ""

    monkeypatch.setattr(schema_check, "_compile_error", compile_error)
    monkeypatch.setattr(schema_check, "_MAX_REMEMBERED", 2)

    async def check(*schemas: Any) -> None:
        checker = schema_check.SchemaChecker()
        for schema in schemas:
            await checker.check(schema, "schema")

    one, two, three = ({"minimum": number} for number in range(3))
    asyncio.run(check(one, one, two, one))
    assert len(compiled) == 2
    compiled.clear()
    asyncio.run(check(one, two, three, one, three))  # the oldest was forgotten
    assert len(compiled) == 4


def test_the_image_that_was_not_seen_for_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(images, "_MAX_KNOWN", 2)
    model = MockModel()
    opener = Images(model, ImageOptions.of(model.config), 10_000)
    shades = [
        encoded(Image.new("RGB", (8, 8), (shade, 0, 0)), "PNG") for shade in range(3)
    ]
    for data in (*shades[:2], shades[0], shades[2]):  # so the second goes
        opener.attach(data, 64)
    # What is known is not decoded again: it takes none of the pixels.
    left = [opener.attach(data, 64)[1] for data in (shades[0], shades[2], shades[1])]
    assert left == [64, 64, 0]


def test_a_heic_image_is_opened_within_the_limits_or_its_extra_named(
    monkeypatch: pytest.MonkeyPatch,
):
    shade = Image.new("RGB", (64, 32), "red")
    file = io.BytesIO()
    pillow_heif.from_bytes("RGB", shade.size, shade.tobytes()).save(file)
    data = file.getvalue()
    model = MockModel()

    def opener() -> Images:
        return Images(model, ImageOptions.of(model.config), 4000)

    image, left = opener().attach(data, 4000)
    assert left == 4000 - 64 * 32 and image.digest
    with pytest.raises(ImageError, match="64x32 pixels; all images of a"):
        opener().attach(data, 2000)
    pretend_missing(monkeypatch, "pillow_heif")
    with pytest.raises(ImageError) as caught:
        opener().attach(data, 4000)
    said = "a HEIC image, which this server does not open; save it as JPEG"
    assert str(caught.value) == f"image of {len(data)} bytes: {said}"
