"""unpack_archive: sound archives, and each kind of unsafe or damaged one."""

import random
import re
import shutil
import stat
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvlm_mlx.convert.source import archive
from fastvlm_mlx.convert.source.archive import unpack_archive
from fastvlm_mlx.errors import CheckpointError, OptionError
from tests.support.paths import ROOT

WEIGHTS = bytes(range(256)) * 8000
GOOD = {
    "llava-fastvithd_0.5b/config.json": b"{}",
    "llava-fastvithd_0.5b/model.safetensors": WEIGHTS,
    "llava-fastvithd_0.5b/sub/x.json": b"[]",
    "llava-fastvithd_0.5b/trainer.py": b"not read by anybody",
    "llava-fastvithd_0.5b/.DS_Store": b"junk",
    "__MACOSX/llava-fastvithd_0.5b/._config.json": b"junk",
}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(files: dict[str, bytes], *extra: tuple[zipfile.ZipInfo, bytes]) -> Path:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)
            for info, data in extra:
                packed.writestr(info, data)
        return path

    return make


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def refuse(path: Path, message: str) -> None:
    """`message` is the whole line after the path; `*` stands for anything."""
    pattern = re.escape(f"{path}: {message}").replace(r"\*", ".*")
    folder = path.parent / "out"
    with pytest.raises(CheckpointError, match=f"^{pattern}$"):
        with unpack_archive(path, folder=folder):
            raise AssertionError("not reached")
    assert not folder.exists() or list(folder.iterdir()) == []


def test_unpacks_and_cleans_up(make: Make, tmp_path: Path):
    path = make(GOOD)
    told: list[tuple[int, int]] = []
    out = tmp_path / "out"
    with unpack_archive(
        path, folder=out, on_progress=lambda *numbers: told.append(numbers)
    ) as folder:
        assert folder.parent == out
        assert tree(folder) == ["config.json", "model.safetensors", "sub/x.json"]
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert list(out.iterdir()) == []
    size = len(WEIGHTS) + 4
    assert told[-1] == (size, size) and len(told) == 4
    assert told == sorted(told)


def test_the_block_s_own_errors_pass(make: Make, tmp_path: Path):
    for error in (OptionError("theirs"), OSError("theirs"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            with unpack_archive(make(GOOD), folder=tmp_path / "out"):
                raise error
        assert caught.value is error
    assert list((tmp_path / "out").iterdir()) == []


def test_default_folder_is_the_cache(make: Make, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "cache"))
    with unpack_archive(make(GOOD)) as folder:
        assert folder.parent == tmp_path / "cache" / "unpacked"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["config.json", "model.safetensors"], ["config.json", "model.safetensors"]),
        (["a/b/config.json", "a/b/w.bin"], ["config.json", "w.bin"]),
        (["a/mobileclip.pt", "a/README.md"], ["README.md", "mobileclip.pt"]),
        (
            ["m/config.json", "m/w.safetensors", "m/checkpoint-9/config.json"],
            ["checkpoint-9/config.json", "config.json", "w.safetensors"],
        ),
        (
            ["m/config.json", "m/e.mlpackage/config.json", "other/w.safetensors"],
            ["config.json", "e.mlpackage/config.json"],
        ),
    ],
)
def test_finds_the_checkpoint(
    make: Make, tmp_path: Path, names: list[str], found: list[str]
):
    path = make(dict.fromkeys(names, b"{}"))
    with unpack_archive(path, folder=tmp_path / "out") as folder:
        assert tree(folder) == found


def test_not_an_archive(tmp_path: Path):
    path = tmp_path / "a.zip"
    refuse(path, "no such file; check the path")
    for data in (b"", b"<html>not found</html>"):
        path.write_bytes(data)
        refuse(path, "not a zip archive; pass a .zip or a folder")
    (tmp_path / "folder.zip").mkdir()
    refuse(tmp_path / "folder.zip", "is no file; pass a .zip")


def test_damage(make: Make):
    path = make(GOOD)
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 30, 100):
        path.write_bytes(whole[:size])
        refuse(path, "cut short; download it again")
    broken = bytearray(whole)
    broken[len(whole) // 3] ^= 255
    path.write_bytes(broken)
    refuse(path, "damaged; download it again")
    path.write_bytes(whole[:60] + whole[2000:])  # the middle is missing
    refuse(path, "damaged; download it again")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("/etc/passwd", "is an absolute or foreign path"),
        ("C:/x.json", "is an absolute or foreign path"),
        ("a\\..\\x.json", "is an absolute or foreign path"),
        ("../x.json", "points outside the archive"),
        ("model/../../x.json", "points outside the archive"),
        ("model//x.json", "has an improper name"),
        ("./x.json", "has an improper name"),
        ("model/\x1b[2Jx.json", "has an improper name"),
        ("model/CON.json", "is named as a device"),
        ("model/nul", "is named as a device"),
    ],
)
def test_evil_names(make: Make, name: str, fault: str):
    path = make(GOOD, (entry(name), b"evil"))
    refuse(path, f"entry * {fault}; do not trust it")
    assert not (path.parent / "x.json").exists()


def test_evil_kinds(make: Make):
    link = entry("llava-fastvithd_0.5b/l.json", stat.S_IFLNK | 0o777)
    refuse(make(GOOD, (link, b"/etc/passwd")), "entry * is a link; do not trust it")
    device = entry("llava-fastvithd_0.5b/d.json", stat.S_IFCHR | 0o666)
    refuse(make(GOOD, (device, b"")), "entry * is a device; do not trust it")


def test_doubled_names(make: Make):
    double = entry("llava-fastvithd_0.5b/CONFIG.json")
    refuse(make(GOOD, (double, b"")), "entry * comes twice; do not trust it")
    below = entry("llava-fastvithd_0.5b/config.json/x.json")
    refuse(make(GOOD, (below, b"")), "entry * lies in a file; do not trust it")


def test_bombs(make: Make, monkeypatch):
    bomb = {"config.json": b"{}", "w.safetensors": bytes(70_000_000)}
    path = make(bomb)
    refuse(path, "* kB would become 70.0 MB; a zip bomb, do not trust it")
    monkeypatch.setattr(archive, "MAX_RATIO", 10**6)
    monkeypatch.setattr(archive, "MAX_BYTES", 10**6)
    refuse(path, "70.0 MB unpacked, 1.0 MB at most; unpack it, pass the folder")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    refuse(make(GOOD), "6 entries, 5 at most; not a checkpoint")


def test_a_lie_about_the_size(make: Make):
    """The directory says less than the data holds."""
    path = make({"config.json": b"{}", "w.safetensors": bytes(3_000_000)})
    data = bytearray(path.read_bytes())
    for place in (m.start() for m in re.finditer(struct.pack("<I", 3_000_000), data)):
        data[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    refuse(path, "damaged; download it again")


def test_encrypted(make: Make):
    path = make(GOOD)
    data = bytearray(path.read_bytes())
    for place in (m.start() for m in re.finditer(b"PK\x01\x02", data)):
        data[place + 8] |= 1
    path.write_bytes(data)
    refuse(path, "is encrypted; unpack it, pass the folder")


def test_unknown_compression(make: Make):
    path = make(GOOD)
    data = path.read_bytes()
    data = re.sub(rb"(PK\x01\x02.{6})\x08\x00", b"\\1\x09\x00", data, flags=re.DOTALL)
    data = re.sub(rb"(PK\x03\x04.{4})\x08\x00", b"\\1\x09\x00", data, flags=re.DOTALL)
    path.write_bytes(data)
    refuse(path, "packed in a way not known here (*); unpack it, pass the folder")


def test_no_checkpoint(make: Make):
    nothing = "holds neither config.json nor weights; not a checkpoint"
    refuse(make({}), nothing)
    refuse(make({"a/readme.txt": b""}), nothing)
    refuse(make({"__MACOSX/config.json": b""}), nothing)
    refuse(
        make({"a/config.json": b"", "b/config.json": b""}),
        "holds several models (a/, b/); unpack it, pass one folder",
    )


def test_no_room(make: Make, tmp_path: Path):
    prefix = ["unshare", "--mount", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("needs Linux user namespaces to mount a small tmpfs")
    code = """
        import os, sys
        from fastvlm_mlx.convert.source import archive
        from fastvlm_mlx.errors import CheckpointError
        for check in (archive.check_free_space, lambda *_: None):
            archive.check_free_space = check
            try:
                folder = archive.Path(sys.argv[2])
                with archive.unpack_archive(sys.argv[1], folder=folder):
                    pass
            except CheckpointError as error:
                print(error)
        print(os.listdir(sys.argv[2]))
        """
    disk = tmp_path / "disk"
    disk.mkdir()
    path = make(GOOD)
    mount = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$4" "$1"'
    script = ["sh", "-c", mount, "-", disk, sys.executable, textwrap.dedent(code), path]
    done = subprocess.run([*prefix, *script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{path}: cannot be unpacked ({disk}: 2.0 MB needed, 1.0 MB free); "
        "set FASTVLM_CACHE to a folder with room",
        f"{path}: cannot be unpacked (no space left on device); "
        "set FASTVLM_CACHE to a folder with room",
        "[]",
    ], done.stderr


@pytest.mark.parametrize(
    "kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_of_each_compression(tmp_path: Path, kind: int):
    """No byte of the data can be wrong and end in another error than the project's."""
    path = tmp_path / "model.zip"
    content = bytes(random.Random(1).choices(b"abcdef", k=3000))
    with zipfile.ZipFile(path, "w", kind) as packed:
        packed.writestr("config.json", content)
    sound = path.read_bytes()
    start, end = sound.index(b"config.json") + 11, sound.rindex(b"PK\x01\x02")
    places = [*range(start, start + 30), *range(start + 30, end, 97)]
    refused = 0
    for place in places:
        path.write_bytes(
            sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :]
        )
        try:
            with unpack_archive(path, folder=tmp_path / "out") as folder:
                assert (folder / "config.json").read_bytes() == content
        except CheckpointError as error:
            refused += 1
            assert str(error) == f"{path}: damaged; download it again"
    assert refused > len(places) * 0.8  # LZMA takes several sizes of dictionary
