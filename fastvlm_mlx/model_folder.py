"""Finds the model folder of a name; converts the source into the cache if needed."""

from pathlib import Path

from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.progress import Progress
from fastvlm_mlx.hub.local_cache import converted_dir, drop_superseded
from fastvlm_mlx.hub.locate import locate
from fastvlm_mlx.model.config import FORMAT


def converted(name: str | Path, *, on_progress: Progress | None = None) -> Path:
    """The folder in our format for `name`, a path or hub id; converts it once.

    Raises:
        CheckpointError: the source is missing, damaged or of an unknown layout.
        DownloadError: it could not be fetched from the hub.
    """
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
    """Whether `folder` is a model folder in our format."""
    file = folder / "config.json"
    return file.is_file() and read_json(file).get("model_type") == FORMAT
