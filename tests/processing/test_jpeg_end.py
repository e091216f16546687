"""JPEGs without their end mark are opened; those that lack pixels are not."""

import io

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import jpeg_end
from fastvlm_mlx.processing.image_file import open_image, size_of
from tests.support.small_images import encoded, noise, refused

KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "4:4:4": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "restarts of blocks": {"restart_marker_blocks": 3},
    "progressive restarts": {"restart_marker_rows": 1, "progressive": True},
}
IMAGES = {
    "noise": noise(100, 70),
    "white": Image.new("RGB", (100, 70), "white"),
    "grey": noise(50, 50).convert("L"),
    "CMYK": noise(40, 40).convert("CMYK"),
}


@pytest.fixture(params=[(i, k) for i in IMAGES for k in KINDS], ids="-".join)
def jpeg(request) -> bytes:
    image, kind = request.param
    return encoded(IMAGES[image], "JPEG", quality=90, **KINDS[kind])


def test_without_the_end_mark(jpeg, tmp_path):
    wanted = open_image(jpeg).tobytes()
    path = tmp_path / "a.jpg"
    for cut in (1, 2):
        path.write_bytes(jpeg[:-cut])
        assert open_image(jpeg[:-cut]).tobytes() == wanted
        assert open_image(path).tobytes() == wanted
        assert size_of(jpeg[:-cut], ["JPEG"]) == open_image(jpeg).size


def test_with_pixels_missing(jpeg):
    """Cut anywhere: what is opened is the whole image, everything else is refused."""
    wanted = open_image(jpeg).tobytes()
    start = jpeg.rindex(b"\xff\xda") + 12
    ends = {start, start + 1, len(jpeg) // 2, len(jpeg) // 3}
    ends |= {len(jpeg) - n for n in range(4, 14)} | {
        len(jpeg) * n // 5 for n in range(5)
    }
    # At the ends of intervals and scans, too.
    marks = [n for n in range(start, len(jpeg) - 9) if jpeg[n] == 0xFF and jpeg[n + 1]]
    ends |= set(marks[-8:])
    opened = 0
    for end in sorted(ends):
        if end <= 0 or end >= len(jpeg) - 3:
            continue
        data = jpeg[:end]
        try:
            found = open_image(data).tobytes()
        except ImageError as error:
            assert "damaged" in str(error)
        else:
            assert found == wanted, len(jpeg) - end
            opened += 1
    assert opened < len(ends)


def test_a_progressive_file_that_lacks_its_last_scans():
    data = encoded(noise(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    for end in (last, tables):
        assert "truncated" in refused(data[:end], f"image of {end} bytes")


def test_it_is_turned_upright():
    tags = Image.Exif()
    tags[0x0112] = 6
    data = encoded(noise(32, 16), "JPEG", exif=tags)
    assert open_image(data[:-2]).tobytes() == open_image(data).tobytes()
    assert open_image(data[:-2]).size == (16, 32)


def test_bytes_after_the_end_do_no_harm():
    data = encoded(noise(32, 16), "JPEG")
    for tail in (b"\0" * 100, b"trailer", b"\xff" * 9):
        assert open_image(data + tail).tobytes() == open_image(data).tobytes()
        assert np.asarray(open_image(io.BytesIO(data[:-2] + tail).read())).size


def test_images_are_compared_by_strips_of_a_million_pixels(monkeypatch):
    """Rows alone would take as many calls, the whole image twice its memory."""
    boxes: list[tuple[int, int, int, int]] = []
    crop = Image.Image.crop

    def noted(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
        boxes.append(box)
        return crop(image, box)

    monkeypatch.setattr(Image.Image, "crop", noted)
    one = Image.new("L", (1024, 2050))
    assert jpeg_end._are_equal(one, one.copy())
    strips = [(0, 0, 1024, 1024), (0, 1024, 1024, 2048), (0, 2048, 1024, 2050)]
    assert sorted(set(boxes)) == strips and len(boxes) == 6
    other = one.copy()
    other.putpixel((1023, 2049), 1)
    assert not jpeg_end._are_equal(one, other)
