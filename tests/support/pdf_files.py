"""PDFs for tests: pages of images, and a minimal one that is written by hand."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "black", "white")


def pages_of(path: Path, images: Sequence[Image.Image], **options) -> Path:
    """Writes a PDF with an image on each page, which it fills."""
    images[0].save(path, "PDF", save_all=True, append_images=images[1:], **options)
    return path


def numbered_page(number: int, size: int = 80) -> Image.Image:
    """An image that says its number, 0 to 255, in eight bands of black and white."""
    bits = [255 * (number >> bit & 1) for bit in range(8)]
    rows = np.repeat(np.array(bits, np.uint8), size // 8)
    return Image.fromarray(np.repeat(rows[:, None], size, axis=1)).convert("RGB")


def number_of(image: Image.Image) -> int:
    """The number of a `numbered_page`, of whatever size it is now."""
    grey = np.asarray(image.convert("L").resize((1, 8), Image.Resampling.BOX))
    return sum(1 << bit for bit in range(8) if grey[bit, 0] > 127)


def minimal(media_box: str, content: bytes = b"", extra: str = "", kids: int = 1):
    """The bytes of a PDF with one page, or with none if `kids` is 0."""
    page = f"<< /Type /Page /Parent 2 0 R /MediaBox [{media_box}] /Contents 4 0 R"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{'3 0 R' * kids}] /Count {kids} >>".encode(),
        f"{page} /Resources << >> {extra} >>".encode(),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    file = io.BytesIO()
    file.write(b"%PDF-1.7\n")
    places = []
    for number, each in enumerate(objects, start=1):
        places.append(file.tell())
        file.write(b"%d 0 obj\n%s\nendobj\n" % (number, each))
    start = file.tell()
    file.write(b"xref\n0 5\n0000000000 65535 f \n")
    file.writelines(b"%010d 00000 n \n" % place for place in places)
    file.write(b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)
    return file.getvalue()
