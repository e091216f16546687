"""Which suffixes are images that are opened, and which are known and are not."""

from fastvlm_mlx.processing.image_suffixes import foreign_suffixes, opened_suffixes


def test_each_suffix_is_opened_or_foreign_and_not_both():
    assert {".png", ".jpg", ".mpo", ".tif", ".webp"} <= opened_suffixes()
    assert {".svg", ".x3f", ".eps"} <= foreign_suffixes()
    assert not opened_suffixes() & foreign_suffixes()
    # A document may have images in it, and is none itself.
    assert ".pdf" not in opened_suffixes() | foreign_suffixes()
