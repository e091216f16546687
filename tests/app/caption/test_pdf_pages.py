"""`caption` of PDFs: a row for each page, under a name that resumes; and of HEIC."""

import os

import pillow_heif
import pytest

from fastvlm_mlx.app.caption.find_images import find
from tests.support.caption_lines import lines, names
from tests.support.missing_extras import pretend_missing
from tests.support.mock_model import make_image
from tests.support.pdf_files import numbered_page, pages_of

pytest_plugins = ["tests.support.caption_runs"]


@pytest.fixture
def papers(tmp_path):
    """A folder with a PDF of twenty pages, one of one, an image and a HEIC image."""
    place = tmp_path / "papers"
    place.mkdir()
    pages_of(place / "long.pdf", [numbered_page(number) for number in range(20)])
    pages_of(place / "short.PDF", [numbered_page(3)])
    make_image(1).save(place / "a.png")
    image = make_image(2).convert("RGB")
    file = pillow_heif.from_bytes("RGB", image.size, image.tobytes())
    file.save(place / "phone.heic")
    return place


def test_each_page_is_a_row(papers, quick, tmp_path):
    out = tmp_path / "out.jsonl"
    quick(papers, "-o", out)
    rows = lines(out)
    assert [os.path.basename(row["image"]) for row in rows] == [
        "a.png",
        *(f"long.pdf#page={number}" for number in range(1, 21)),
        "phone.heic",
        "short.PDF#page=1",
    ]
    # Twenty different pages were seen: the caption is the mean of what the model sees.
    assert len({row["caption"] for row in rows[1:21]}) >= 8
    means = {row["image"].rpartition("/")[2]: row["caption"] for row in rows}
    assert means["long.pdf#page=4"] == means["short.PDF#page=1"]
    # Half of it away, as after a stop: the same command goes on at the page.
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:9]))
    _, err = quick(papers, "-o", out)
    assert "9 of 23 images have captions already" in err
    assert out.read_bytes().splitlines(keepends=True) == whole


def test_one_page_alone(papers, quick, tmp_path):
    quick(f"{papers}/long.pdf#page=7", "-o", tmp_path / "a.jsonl")
    assert names(tmp_path / "a.jsonl") == ["long.pdf#page=7"]
    assert find([f"{papers}/*.pdf"])[19] == f"{papers}/long.pdf#page=20"
    _, err = quick(f"{papers}/long.pdf#page=21", "-o", tmp_path / "b.jsonl", code=1)
    assert "long.pdf: no page 21; choose 1 to 20" in err


def test_texts_beside_a_pdf(papers, quick):
    quick(papers / "long.pdf", papers / "a.png", "--format", "txt")
    found = sorted(os.listdir(papers))
    assert "long.page-1.txt" in found and "long.page-20.txt" in found
    assert sum(name.endswith(".txt") for name in found) == 21
    _, err = quick(papers / "long.pdf", "--format", "txt")
    assert "20 of 20 images have captions already" in err


def test_a_damaged_pdf_fails_alone(papers, quick, tmp_path):
    (papers / "bad.pdf").write_bytes(b"%PDF-1.7\n")
    _, err = quick(papers, "-o", tmp_path / "a.jsonl", code=1)
    assert "23 images captioned" in err and "1 failed" in err
    assert f"{papers}/bad.pdf: a damaged PDF, or one without pages; exp" in err


def test_what_is_missing_is_said(papers, quick, tmp_path, monkeypatch):
    for module in ("pypdfium2", "pillow_heif"):
        pretend_missing(monkeypatch, module)
    _, err = quick(papers, "-o", tmp_path / "a.jsonl", code=1)
    warning = err.splitlines()[0]
    assert warning.startswith(
        "warning: 3 images left out, as .heic, .pdf cannot be opened; save as JPEG, or"
        " for HEIC "
    )
    assert "'pillow-heif>=1.8', or for PDF " in warning
    assert f"'pypdfium2>=5.15': {papers}/long.pdf, {papers}/phone.heic, " in warning
    assert err.splitlines()[1].startswith("1 image captioned")
    _, err = quick(papers / "long.pdf", "-o", tmp_path / "b.jsonl", code=1)
    assert "long.pdf: a PDF, which needs pypdfium2; " in err
