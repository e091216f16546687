"""What makes a folder an output of this program, and what is foreign in one."""

import re
from pathlib import Path

import pytest

from fastvlm_mlx.files.own_output import OutputKind, find_foreign

KIND = OutputKind(
    "a model",
    re.compile(r"config\.json|parts/[a-z]+\.bin"),
    lambda folder: (folder / "config.json").read_text() == "ours",
)


def fill(folder: Path, *names: str, text: str = "ours") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("config.json",),
        ("config.json", "parts/a.bin", "parts/b.bin"),
        ("config.json", ".DS_Store", "._config.json", "parts/a.bin", "parts/._a.bin"),
        ("Thumbs.db", "desktop.ini", ".directory"),
    ],
)
def test_ours(tmp_path: Path, names: tuple[str, ...]):
    assert find_foreign(fill(tmp_path, *names), KIND) is None


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (("config.json", "notes.txt"), "notes.txt"),
        (("config.json", "parts/A.bin"), "parts/A.bin"),
        (("config.json", "parts/deep/a.bin"), "parts/deep/a.bin"),
        (("config.json", "parts/"), "parts/"),
        (("config.json", "empty/"), "empty/"),
        (("config.json", "empty/.DS_Store"), "empty/"),
        (("config.json", "a/x", "b"), "b"),  # files go before folders
        (("config.json", "b/x", "a/x"), "a/x"),
        (("config.json", "config.json.old"), "config.json.old"),
        (("config.json", "x.DS_Store"), "x.DS_Store"),
        (("config.json", ".DS_Store.old"), ".DS_Store.old"),
        (("config.json", "two\nlines"), "'two\\nlines'"),
    ],
)
def test_foreign(tmp_path: Path, names: tuple[str, ...], other: str):
    assert find_foreign(fill(tmp_path, *names), KIND) == (
        f"holds {other}, which is not part of a model that fastvlm-mlx wrote"
    )


def test_links_and_folders_with_a_file_s_name(tmp_path: Path):
    (tmp_path / "file").write_text("ours")
    for number, make in enumerate(
        (
            lambda path: path.symlink_to(tmp_path / "file"),
            lambda path: path.symlink_to(tmp_path),
            lambda path: fill(path, "x"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "config.json")
        assert "holds config.json" in (find_foreign(folder, KIND) or "")


def test_without_our_mark(tmp_path: Path):
    fill(tmp_path, "config.json", text="theirs")
    assert find_foreign(tmp_path, KIND) == "was not written by fastvlm-mlx"


def test_of_no_kind(tmp_path: Path):
    assert find_foreign(tmp_path, None) is None
    fill(tmp_path, ".DS_Store")
    assert find_foreign(tmp_path, None) is None
    fill(tmp_path, "config.json")
    assert find_foreign(tmp_path, None) == (
        "holds config.json, which is not part of an output that fastvlm-mlx wrote"
    )


def test_folders_of_the_cache(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path))
    model, package = "converted/a@0123456789ab-v1", f"coreml/{'0' * 16}"
    for name in (
        model,
        f"{model}.replaced-1",
        package,
        f"coreml/a-{'0' * 12}.mlpackage",
    ):
        assert find_foreign(fill(tmp_path / name, "anything").resolve(), KIND) is None
    for name in ("other/a", f"{model}/deep", "a", "converted/photos", "coreml/b"):
        assert find_foreign(fill(tmp_path / name, "anything").resolve(), KIND)
