"""Which source a name means."""

import os
from pathlib import Path

from fastvlm_mlx.app.watch.shot import Source
from fastvlm_mlx.errors import OptionError


def source_of(name: str, *, rate: float, from_start: bool) -> Source:
    """The source of `camera`, `screen`, a folder, a file or an address.

    A file or folder called `camera` is `./camera`.

    Raises:
        OptionError: the name means nothing.
    """
    kind = name.partition(":")[0]
    if kind == "camera":
        from fastvlm_mlx.app.watch.stream import CameraSource

        return CameraSource(name)
    if kind == "screen":
        from fastvlm_mlx.app.watch.screen import ScreenSource

        return ScreenSource(name, rate)
    from fastvlm_mlx.app.watch.folder import FolderSource, is_image_file
    from fastvlm_mlx.app.watch.stream import VideoSource

    if "://" in name[:16]:
        return VideoSource(name)
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return FolderSource(path, from_start=from_start)
    if not os.path.lexists(path):
        raise OptionError(
            f"{name}: no such file or folder; or give camera, screen or an address"
        )
    return FolderSource(path) if is_image_file(path) else VideoSource(str(path))
