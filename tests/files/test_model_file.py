"""What is said of a model's file that is there and cannot be read."""

import errno
import os
from pathlib import Path

from fastvlm_mlx.files.model_file import unreadable

CLOSED = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def test_a_link_is_blamed_only_if_it_leads_nowhere(tmp_path: Path):
    file, link = tmp_path / "config.json", tmp_path / "link.json"
    dangling = tmp_path / "dangling.json"
    file.write_text("{}")
    link.symlink_to(file)
    dangling.symlink_to(tmp_path / "nothing")
    for path in (file, link):
        assert str(unreadable(path, CLOSED)) == (
            f"{path}: cannot be read (Permission denied); check its permissions"
        )
    assert str(unreadable(dangling, GONE)) == (
        f"{dangling}: cannot be read (No such file or directory);"
        " it is a link to nothing, get the file again"
    )
    # As where its folder may not be searched.
    assert "check its permissions" in str(unreadable(tmp_path / "none", CLOSED))
