"""Files of lines of any kind: their form, what they hold, what is kept and dropped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.app.lines.form import Contents, KeyedJSONLines
from fastvlm_mlx.app.lines.output import LineFile
from fastvlm_mlx.errors import OptionError

FORM = KeyedJSONLines("id")


@dataclass
class Note:
    """A line of these tests."""

    id: Any
    error: str | None = None
    author: str = "me"

    def fields(self) -> dict[str, Any]:
        known = {"id": self.id, "author": self.author}
        return known | ({"error": self.error} if self.error else {})


def opened(path: Path, *, overwrite: bool = False) -> LineFile:
    contents = Contents("note", {"author": "me"}, lambda each: each["id"], (FORM,))
    return LineFile(path, FORM, contents, overwrite=overwrite)


def write(path: Path, *notes: Note) -> None:
    file = opened(path)
    file.begin()
    for note in notes:
        file.write(note)
    file.close()


def test_what_is_there(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    write(path, Note("1"), Note("2", error="bad"), Note("3"))
    with path.open("ab") as torn:
        torn.write(b'{"id": "4"')
    file = opened(path)
    assert file.done == {"1", "3"}
    assert [each["id"] for each in file.kept()] == ["1", "3"]
    file.begin()  # drops what failed, and the half line
    file.write(Note("2"))
    file.close()
    assert path.read_bytes() == b"".join(FORM.encode(Note(id)) for id in "132")


def test_overwriting(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    write(path, Note("1"))
    file = opened(path, overwrite=True)
    assert file.done == set() and list(file.kept()) == []
    file.begin()
    file.close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("data", [b'{"image": "a.png"}\n', b"some text\n", b"[1]\n"])
def test_the_files_of_others(tmp_path: Path, data: bytes, overwrite: bool):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(OptionError, match="exists and holds no notes; choose another"):
        opened(path, overwrite=overwrite)
    assert path.read_bytes() == data


def test_other_labels_and_damage(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    write(path, Note("1", author="you"))
    with pytest.raises(OptionError, match="holds notes of author 'you'; choose"):
        opened(path)
    path.write_bytes(FORM.encode(Note("1")) + b"nonsense\n" + FORM.encode(Note("2")))
    with pytest.raises(OptionError, match="no note at byte 28; mend the file, or use"):
        opened(path)


@pytest.mark.parametrize("line", [b"{}", b'{"id": 1}', b"[]", b"x", b"[" * 100_000])
def test_what_is_no_line(line: bytes):
    with pytest.raises(ValueError):
        FORM.decode(line + b"\n")
