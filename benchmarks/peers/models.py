"""The model folders that the settings read: one checkpoint, in the form of each.

The checkpoint is as released, in bfloat16. float32 is the same values widened, so all
float32 settings compute with the same numbers; mlx-vlm's command reads no other dtype
than the file's, and a widened file costs the others no memory for what they widen.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from benchmarks.apart import apart
from fastvlm_mlx.app.terminal import note
from fastvlm_mlx.convert.to_mlx import convert
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.atomic_write import staged_folder

# How `ours-...` is converted from Apple's layout; as it is stored otherwise.
CONVERSIONS = {"ours-float32": {"dtype": "float32"}, "ours-4bit": {"q_bits": 4}}


class Models:
    """The folders by name, made when they are asked for and kept in `folder`.

    Args:
        sources: the checkpoint in the layouts `llava` and `transformers`; None where
            it is not at hand.
        folder: for what is made of them.
    """

    def __init__(self, sources: Mapping[str, Path | None], folder: Path):
        self.sources, self.folder = sources, folder

    def path(self, name: str) -> Path:
        """The folder called `name`.

        Raises:
            CheckpointError: the layout it is made of is not at hand; it cannot be made.
        """
        layout = "transformers" if name.startswith("transformers") else "llava"
        source = self.sources[layout]
        if source is None:
            option = "--model" if layout == "llava" else "--transformers-model"
            raise CheckpointError(f"no model in its layout; give {option}")
        if name == layout:
            return source
        out = self.folder / f"{name}-{_key(source)}"
        if not out.exists():
            note(f"making {out}")
            if name in CONVERSIONS:
                apart(convert, source, out, **CONVERSIONS[name])
            else:
                apart(widen, source, out)
        return out


def widen(source: Path, out: Path) -> None:
    """Copies a checkpoint with its numbers as float32."""
    with staged_folder(out) as folder:
        for path in source.iterdir():
            if path.suffix == ".safetensors":
                tensors = mx.load(str(path))
                assert isinstance(tensors, dict)
                wide = {
                    name: value.astype(mx.float32)
                    if mx.issubdtype(value.dtype, mx.floating)
                    else value
                    for name, value in tensors.items()
                }
                mx.save_safetensors(str(folder / path.name), wide, {"format": "pt"})
            elif path.is_file():
                shutil.copy(path, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for key in ("torch_dtype", "dtype"):
            if key in config:
                config[key] = "float32"
        text = json.dumps(config, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _key(source: Path) -> str:
    """Tells one state of a checkpoint's weights from another."""
    facts = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(source.glob("*.safetensors"))
    ]
    told = repr((str(source.resolve()), facts))
    return hashlib.sha256(told.encode()).hexdigest()[:8]
