"""`tests/references` is what its maker makes, up to the rounding of this machine."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

from tests.support import make_references  # noqa: E402
from tests.support.assert_close import assert_close  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
MAKERS = {
    make_references.make_llava: (
        "llava-mini",
        "mlx-community-mini",
        "mlx-community-mini-4bit",
    ),
    make_references.make_llava_train: ("llava-mini-train",),
    make_references.make_hf: ("hf-mini",),
}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_checkpoints_and_goldens(maker, reference: Path, images: Path, tmp_path: Path):
    # The stored images: another Pillow might scale them differently.
    with np.load(images / "preprocess_pad_256.npz") as arrays:
        maker(tmp_path, dict(arrays))
    assert {path.name for path in tmp_path.iterdir()} == {*MAKERS[maker]}
    for layout in MAKERS[maker]:
        made, kept = tmp_path / layout, reference / layout
        names = {path.name for path in made.iterdir()}
        assert names == {path.name for path in kept.iterdir()}
        compare_weights(made, kept)
        with np.load(made / "golden.npz") as new, np.load(kept / "golden.npz") as old:
            assert new.files == old.files
            for name in new.files:
                if old[name].dtype == np.float32:
                    assert_close(f"{layout}: {name}", new[name], old[name], 1e-4)
                else:
                    assert np.array_equal(new[name], old[name]), name


def compare_weights(made: Path, kept: Path) -> None:
    for file in sorted(path.name for path in kept.glob("*.safetensors")):
        new, old = (mx.load(str(folder / file)) for folder in (made, kept))
        assert isinstance(new, dict) and isinstance(old, dict)
        assert new.keys() == old.keys()
        for name, tensor in old.items():
            assert new[name].dtype == tensor.dtype, name
            if tensor.dtype == mx.uint32:
                assert mx.array_equal(new[name], tensor), name
            else:
                # A branch folded elsewhere may round to the next of 12 bits.
                assert mx.allclose(new[name], tensor, rtol=1e-3), name


def test_the_tokenizer_s_golden(reference: Path, tmp_path: Path):
    make_references.make_tokenizer(tmp_path)
    made, kept = tmp_path / "golden.json", reference / "tokenizer" / "golden.json"
    assert json.loads(made.read_text("utf-8")) == json.loads(kept.read_text("utf-8"))
