"""Pages of PDFs come out as the images that they were made from, each by its number."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import pdf
from fastvlm_mlx.processing.image_file import open_image, size_of
from fastvlm_mlx.processing.image_options import ImageOptions
from tests.support.missing_extras import pretend_missing
from tests.support.pdf_files import minimal, number_of, numbered_page, pages_of
from tests.support.small_images import psnr, refused

A4 = "0 0 595 842"
LETTER_WITH_A_RED_CORNER = b"1 0 0 rg 0 692 100 150 re f"  # x, y from below, w, h


def smooth(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(3).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_a_scan_is_what_it_was_made_from(tmp_path):
    scan = smooth(480, 640)
    path = pages_of(tmp_path / "scan.pdf", [scan], quality=95)
    for source in (path, str(path), path.read_bytes()):
        assert psnr(open_image(source, long_side=640), scan) > 35
    # Unless asked otherwise, twice the resolution of the models.
    assert open_image(path).size == (1536, 2048)


def test_every_page_of_twenty_is_reached(tmp_path):
    pages = [numbered_page(number) for number in range(20)]
    path = pages_of(tmp_path / "a report.pdf", pages, quality=95)
    data = path.read_bytes()
    assert pdf.page_count(path, "a") == pdf.page_count(data, "a") == 20
    for number in range(20):
        name = pdf.page_name(path, number + 1)
        assert pdf.split_page(name) == (str(path), number + 1)
        assert number_of(open_image(name, long_side=160)) == number
        assert number_of(open_image(data, page=number + 1, long_side=160)) == number
    assert number_of(open_image(path, long_side=160)) == 0
    assert refused(f"{path}#page=21", str(path)) == "no page 21; choose 1 to 20"
    assert refused(f"{path}#page=0", str(path)) == "no page 0; choose 1 to 20"


def test_a_file_that_has_such_a_name_is_that_file(tmp_path):
    image = numbered_page(5)
    image.save(tmp_path / "a.pdf#page=2", "PNG")
    assert pdf.split_page(tmp_path / "a.pdf#page=2")[1] is None
    assert number_of(open_image(tmp_path / "a.pdf#page=2")) == 5
    address = "https://example.org/a.pdf"
    assert pdf.split_page(f"{address}#page=3") == (address, 3)
    assert pdf.split_page(f"{address}#page=x") == (f"{address}#page=x", None)


def test_an_image_has_no_pages(tmp_path):
    numbered_page(1).save(tmp_path / "a.png")
    said = refused(f"{tmp_path}/a.png#page=2")
    assert said == "has no pages, as it is no PDF; leave it out"
    missing = refused(f"{tmp_path}/none.pdf#page=2")
    assert missing == "no such file; check the path"


@pytest.mark.parametrize(
    ("extra", "size", "corner"),
    [
        ("", (1447, 2048), "left top"),
        ("/Rotate 90", (2048, 1447), "right top"),
        ("/Rotate 180", (1447, 2048), "right bottom"),
        ("/Rotate -90", (2048, 1447), "left bottom"),
    ],
)
def test_a_page_is_upright_and_on_white(extra, size, corner):
    image = open_image(minimal(A4, LETTER_WITH_A_RED_CORNER, extra))
    assert abs(image.width - size[0]) <= 1 and abs(image.height - size[1]) <= 1
    x = 20 if "left" in corner else image.width - 20
    y = 20 if "top" in corner else image.height - 20
    assert image.getpixel((x, y)) == (255, 0, 0)
    assert image.getpixel((image.width - x, image.height - y)) == (255, 255, 255)


@pytest.mark.parametrize("box", ["0 0 14400 14400", "0 0 1 14400", "0 0 2e9 3", A4])
def test_no_page_has_more_pixels_than_asked_for(box):
    image = open_image(minimal(box), long_side=300)
    assert 300 <= max(image.size) <= 301 and min(image.size) >= 1
    side = ImageOptions("pad", 4096, (6, 6)).page_side
    assert side == 8192
    page = open_image(minimal("0 0 9 900"), long_side=10**9)
    assert page.height in (8192, 8193)
    assert ImageOptions("pad", 1024).page_side == 2048
    assert ImageOptions("pad", 1024, (1, 3)).page_side == 6144


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n",
        b"\0junk %PDF-1.7\n",
        minimal(A4, kids=0),
        minimal(A4)[:200],
        minimal(A4).replace(b"/Type /Page ", b"/Type /Pork "),
    ],
)
def test_damaged_pdfs_and_those_without_pages(data, tmp_path):
    (tmp_path / "a.pdf").write_bytes(data)
    said = refused(tmp_path / "a.pdf")
    assert said == "a damaged PDF, or one without pages; export it again"
    with pytest.raises(ImageError, match="damaged PDF"):
        pdf.render(data, "a")


def test_a_pdf_that_is_locked(tmp_path):
    # Of the standard security handler, with a user password that is not empty.
    locked = minimal(A4).replace(
        b"trailer << ",
        b"trailer << /ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4"
        b" /O <" + b"11" * 32 + b"> /U <" + b"22" * 32 + b"> >> ",
    )
    (tmp_path / "locked.pdf").write_bytes(locked)
    said = refused(tmp_path / "locked.pdf")
    assert said == "is locked with a password; save a copy without one"


def test_without_the_extra_one_line_says_which(monkeypatch, tmp_path):
    path = pages_of(tmp_path / "a.pdf", [numbered_page(1)])
    pretend_missing(monkeypatch, "pypdfium2")
    said = refused(path)
    assert said.startswith("a PDF, which needs pypdfium2; ")
    assert "pip install" in said and "'pypdfium2>=5.15'" in said


def test_a_page_of_an_address(tmp_path):
    pages_of(tmp_path / "a.pdf", [numbered_page(4), numbered_page(130)])
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            asked.append(self.path)

    handler = partial(Handler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.02,)).start()
        address = f"http://127.0.0.1:{server.server_port}/a.pdf"
        try:
            assert number_of(open_image(f"{address}#page=2", long_side=80)) == 130
            assert number_of(open_image(address, long_side=80)) == 4
            assert refused(f"{address}#page=3", address) == "no page 3; choose 1 to 2"
        finally:
            server.shutdown()
    assert asked == ["/a.pdf"] * 3


def test_a_server_does_not_open_it(tmp_path):
    path = pages_of(tmp_path / "a.pdf", [numbered_page(1)])
    with pytest.raises(ImageError, match="a PDF; export the page as PNG"):
        size_of(path.read_bytes(), ("PNG", "JPEG", "HEIF"))


def test_a_jpeg_with_the_mark_of_a_pdf_in_it_is_a_jpeg(tmp_path):
    numbered_page(9).save(tmp_path / "a.jpg", comment=b"made of %PDF-1.4")
    assert number_of(open_image(tmp_path / "a.jpg")) == 9


def test_pages_from_several_threads(tmp_path):
    pages = [numbered_page(number) for number in range(12)]
    path = pages_of(tmp_path / "a.pdf", pages)
    names = [pdf.page_name(path, number + 1) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda name: number_of(open_image(name, long_side=80)), names)
        assert list(found) == list(range(12))
