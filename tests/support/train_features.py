"""What the tests of kept features share: samples of one image, and the kept files."""

from pathlib import Path

from fastvlm_mlx.train.data.features import FeatureStore
from fastvlm_mlx.train.data.samples import Image, Sample


def samples(*images: Image) -> list[Sample]:
    """A sample of each image, on a line of its own in `set.jsonl`."""
    return [
        Sample((image,), (("What?", "A cup."),), origin=f"set.jsonl:{at}")
        for at, image in enumerate(images, start=1)
    ]


def paths(folder: Path) -> list[Path]:
    """The images of the fixture `folder`."""
    return [folder / name for name in ("a.png", "b.png", "c.png", "sub/d.png")]


def files(store: FeatureStore) -> list[Path]:
    """All that the store keeps, hidden files too."""
    return sorted(file for file in store.folder.rglob("*") if file.is_file())
