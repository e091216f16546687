"""Rows that name a page of a PDF: `report.pdf#page=3`."""

import pytest

from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.data.image_identity import content_hash, identities
from fastvlm_mlx.data.image_reference import ImageFinder, file_of
from fastvlm_mlx.processing.image_file import open_image
from tests.support.pdf_files import number_of, numbered_page, pages_of


@pytest.fixture
def finder(tmp_path):
    pages = [numbered_page(9), numbered_page(200)]
    pages_of(tmp_path / "a.pdf", pages)
    pages_of(tmp_path / "copy.pdf", pages)
    (tmp_path / "copy.pdf").write_bytes((tmp_path / "a.pdf").read_bytes())
    return ImageFinder([tmp_path])


def test_a_page_is_found_and_opened(finder, tmp_path):
    first, second = finder.find("a.pdf#page=1"), finder.find("a.pdf#page=2")
    assert [number_of(open_image(page)) for page in (first, second)] == [9, 200]
    assert file_of(second) == tmp_path / "a.pdf"
    assert finder.find("a.pdf") == tmp_path / "a.pdf"
    assert finder.find("https://example.org/a.pdf#page=2").endswith("#page=2")
    with pytest.raises(BadRow, match="^none.pdf: no such file$"):
        finder.find("none.pdf#page=2")


def test_pages_are_different_images_and_copies_the_same(finder):
    names = ("a.pdf#page=1", "a.pdf#page=2", "copy.pdf#page=1", "a.pdf")
    one, two, copy, whole = (finder.find(name) for name in names)
    assert len({content_hash(each) for each in (one, two, copy, whole)}) == 3
    assert content_hash(one) == content_hash(copy) != content_hash(two)
    same = identities([one, two, copy])
    assert same[one] == same[copy] != same[two]
    lone = identities([two])
    assert "page 2" in lone[two]
