"""From a model's name to a folder in our format; a conversion is made once and kept."""

from collections.abc import Callable
from pathlib import Path

from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.hub.local_cache import converted_dir, drop_superseded
from fastvlm_mlx.hub.locate import locate
from fastvlm_mlx.model.config import FORMAT

Progress = Callable[[int, int], None]


def converted(name: str | Path, *, on_progress: Progress | None = None) -> Path:
    """The folder in our format that `name` means, made in the cache if need be."""
    source = locate(name)
    if is_converted(source):
        return source
    out = converted_dir(source)
    if not is_converted(out):
        # Here, not above: a converted model needs none of the converter.
        from fastvlm_mlx.convert import to_mlx

        to_mlx.convert(source, out, first_wins=True, on_progress=on_progress)
        drop_superseded(out)
    return out


def is_converted(folder: Path) -> bool:
    """Whether `folder` is a model folder of ours."""
    file = folder / "config.json"
    return file.is_file() and read_json(file).get("model_type") == FORMAT
