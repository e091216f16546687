"""The charts and tables of docs/performance.md, made from a result."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from benchmarks.peers import page, svg
from tests.support.paths import ROOT
from tests.support.peer_turns import document

SPACE = "{http://www.w3.org/2000/svg}"


def texts(image: str) -> list[str]:
    return [
        "".join(node.itertext()) for node in ET.fromstring(image).iter(f"{SPACE}text")
    ]


@pytest.mark.parametrize("palette", [svg.LIGHT, svg.DARK])
def test_the_chart_shows_every_peer_at_its_best(palette):
    image = page.chart(document(), palette)
    shown = texts(image)
    for title in page.PANELS.values():
        assert title in shown
    assert shown.count("fastvlm-mlx") == shown.count("transformers") == 4
    # TTFT: ours, torch's best with its setting, mlx-vlm's.
    assert shown[1:10] == [
        *("fastvlm-mlx", "bfloat16", "3"),
        *("transformers", "float32, channels_last", "2"),
        *("mlx-vlm", "float32", "40"),
    ]
    assert any("Chip, 2 cores, 16 GB" in words for words in shown)
    assert f'fill="{palette.paper}"' in image


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [svg.LIGHT, svg.DARK])
def test_text_is_legible(palette):
    assert contrast(palette.ink, palette.paper) > 7
    assert contrast(palette.muted, palette.paper) > 4.5
    assert contrast(palette.bars[0], palette.paper) > 3


def widths(values: list[float]) -> list[float]:
    drawing = svg.Drawing(500, 200, svg.LIGHT, "")
    rows = [svg.Row("a", "b", value, "c") for value in values]
    drawing.bars(0, 20, "title", rows, 400)
    boxes = re.findall(r'width="([\d.]+)" height="20"', str(drawing))
    assert len(boxes) == len(values)
    return [float(width) for width in boxes]


def test_bars_are_in_proportion():
    assert widths([2, 4]) == [90.0, 180.0]


def test_a_bar_that_is_far_longer_is_cut():
    assert widths([2, 4, 400]) == [60.0, 120.0, 180.0]
    drawing = svg.Drawing(500, 200, svg.LIGHT, "")
    drawing.bars(0, 20, "t", [svg.Row("a", "b", v, "c") for v in (2, 4, 400)], 400)
    assert str(drawing).count('width="5.0" height="24"') == 1


def test_names_cannot_break_the_image():
    drawing = svg.Drawing(9, 9, svg.LIGHT, "<&>")
    drawing.text(0, 0, '<b>"', size=11)
    assert texts(str(drawing)) == ['<b>"']


def test_the_tables():
    made = page.block(document())
    lines = made.splitlines()
    (torch,) = [line for line in lines if line.startswith("| transformers float32, ch")]
    assert "| **2** | **4** | **0.2** | 2 | **4** | 3 GB |" in torch
    (failed,) = [line for line in lines if line.startswith("| mlx-vlm bfloat16")]
    assert failed.endswith("| 0 rounds; no answer within 240 s |")
    (ratio,) = [line for line in lines if line.startswith("| bfloat16 / transformers")]
    assert ratio.startswith("| bfloat16 / transformers | 1.50 | 1.50 | 1.50 | 1.67 |")
    # Every row of a table has as many cells as its head.
    for table in re.findall(r"(?:^\|.*\n?)+", made, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_result_without_ours():
    found = document()
    results = {k: r for k, r in found["results"].items() if r["peer"] != "ours"}
    changed = {"results": results, "ratios": {}, "prompt_tokens": None, "rounds": 3}
    made = page.block({**found, **changed})
    assert "divided by" not in made and "None" not in made
    assert "an image at 1024 px, medians of 3 rounds; " in made
    assert "\n\n\n" not in made


def test_a_busy_machine_is_told():
    found = document()
    assert page.busy(found) == "other programs used 0.01 cores"
    assert page.busy({**found, "others": 1.4}).endswith("1.40 cores: NOT QUIET")
    assert page.busy({**found, "others": None}) == "load before 0.5"


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "peers.json").write_text(json.dumps(document()))
    (tmp_path / "performance.md").write_text(
        f"# Performance\n\n{page.BEGIN}\nOUTDATED\n{page.END}\n\n## More\n"
    )
    return tmp_path


def test_the_page_is_written_between_its_marks(docs, monkeypatch):
    monkeypatch.setattr("sys.argv", ["page", "--docs", str(docs)])
    page.main()
    text = (docs / "performance.md").read_text()
    assert text.startswith(f"# Performance\n\n{page.BEGIN}\n\n<picture>")
    assert text.endswith(f"{page.END}\n\n## More\n") and "OUTDATED" not in text
    for name in ("peers.svg", "peers-dark.svg"):
        ET.parse(docs / "images" / name)
    page.main()
    assert (docs / "performance.md").read_text() == text


def test_a_page_without_marks_is_left_alone(docs, monkeypatch):
    (docs / "performance.md").write_text("# Performance\n")
    monkeypatch.setattr("sys.argv", ["page", "--docs", str(docs)])
    with pytest.raises(SystemExit, match="error: the page lacks the marks .*put them"):
        page.main()
    assert not list((docs / "images").iterdir())


def test_a_missing_result_says_how_to_get_one(docs, monkeypatch):
    (docs / "peers.json").unlink()
    monkeypatch.setattr("sys.argv", ["page", "--docs", str(docs)])
    with pytest.raises(SystemExit, match="benchmarks.peers --out .*peers.json"):
        page.main()


def test_the_committed_page_is_made_of_the_committed_result():
    """Nobody has changed a figure by hand."""
    docs = ROOT / "docs"
    text = (docs / "performance.md").read_text()
    if not (docs / "peers.json").exists():  # then no figure either
        between = text.partition(page.BEGIN)[2].partition(page.END)[0]
        assert not between.strip()
        return
    found = json.loads((docs / "peers.json").read_text())
    assert page.replaced(text, page.block(found)) == text
    assert (docs / "images" / "peers.svg").read_text() == page.chart(found, svg.LIGHT)
    assert (docs / "images" / "peers-dark.svg").read_text() == page.chart(
        found, svg.DARK
    )
