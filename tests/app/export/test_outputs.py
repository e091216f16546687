"""An OUT that must not be written is refused before a model is looked for."""

import os
import shutil
from pathlib import Path

import pytest

from fastvlm_mlx.app.export.coreml import package_path
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.convert.outputs import MODEL_FOLDER, PACKAGE
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.output_check import check_output

COMMANDS = ["convert", "export ios", "export mlx-vlm", "export coreml"]


@pytest.fixture
def refused(run, monkeypatch):
    """Runs a command that must end before a model is looked for; returns its line."""

    def never(*_args, **_options):
        raise AssertionError("a model was looked for")

    monkeypatch.setattr("fastvlm_mlx.model_folder.locate", never)
    monkeypatch.setattr("fastvlm_mlx.app.export.folder.locate", never)

    def call(command: str, out: object, *options: str) -> str:
        code, printed, err = run(*command.split(), "0.5b", out, *options)
        assert (code, printed, err.count("\n")) == (1, "", 1), err
        return err.removeprefix("error: ").removesuffix("\n")

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_ours_stays(refused, tmp_path: Path, command: str):
    out = tmp_path / "out.mlpackage"
    out.mkdir()
    what = "a package" if command == "export coreml" else "a model"
    for name, text in (("config.json", '{"model_type": "llava"}'), ("b.txt", "mine")):
        (out / name).write_text(text)
        for overwrite in ((), ("--overwrite",)):
            line = refused(command, out, *overwrite)
            assert line.startswith(f"{out}: ")
            assert line.endswith("; name another output")
    assert f"holds b.txt, which is not part of {what} that fastvlm-mlx wrote" in line
    assert sorted(os.listdir(out)) == ["b.txt", "config.json"]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_made(refused, tmp_path: Path, command: str):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.mlpackage")
    for out, reason in {
        tmp_path / "file" / "x": "cannot make its folder (not a",
        tmp_path / "pipe.mlpackage": "is a device, a pipe or a socket; name another",
        tmp_path / f"{'n' * 290}.mlpackage": "cannot be written (file name too long)",
        Path("/proc/none/x"): "cannot make its folder (",
    }.items():
        assert f": {reason}" in refused(command, out, "--overwrite")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe.mlpackage"]


@pytest.mark.parametrize("command", ["convert", "export ios", "export mlx-vlm"])
def test_the_source_is_not_the_output(run, refused, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "model").mkdir(parents=True)
    ours = tmp_path / "in" / "model" / "config.json"
    ours.write_text('{"converter": "fastvlm-mlx 1"}')
    for out, reason in (
        ("in/model", "is the source itself; name another output"),
        ("in/model/x", "lies inside the source; name an output outside it"),
        ("in", "holds the source; name an output beside it"),
    ):
        code, printed, err = run(*command.split(), "in/model", out, "--overwrite")
        assert (code, printed, err) == (1, "", f"error: {out}: {reason}\n")
    # A folder that is called like a model hides no model.
    (tmp_path / "0.5b").mkdir()
    (tmp_path / "0.5b" / "notes").touch()
    assert ": holds notes," in refused(command, "0.5b", "--overwrite")
    assert os.listdir(tmp_path / "in") == ["model"]


def test_names_that_are_none(refused, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        stdout = "cannot be written to standard output; name a path"
        assert refused(command, "-", "--overwrite") == f"-: {stdout}"
        assert ": holds " in refused(command, ".", "--overwrite")
        assert ": holds " in refused(command, "..", "--overwrite")
        assert refused(command, "/", "--overwrite").startswith("/: has no name to")
        assert "~no-such-user/x" in (
            line := refused(command, "~no-such-user/x", "--overwrite")
        )
        assert ": not a usable path; name another output" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("convert 0.5b {out} --q-bits 4 --q-group-size 5", "--q-group-size 5: use 32"),
        ("export ios 0.5b {out} --q-group-size 5", "--q-group-size 5: use 4 or 8, in"),
        (
            "export mlx-vlm 0.5b {out} --q-bits 4 --q-group-size 5",
            "--q-bits 4 --q-group-size 5: use 4 or 8, in groups of",
        ),
        ("export ios 0.5b {out} --image {out}.png", ".png: no such file; check the"),
        ("export coreml 0.5b {out} --image {out}.png", ".png: no such file; check the"),
    ],
)
def test_other_options_are_refused_before_a_download(
    run, refused, tmp_path: Path, command: str, message: str
):
    code, printed, err = run(*command.format(out=tmp_path / "out").split())
    assert (code, printed, err.count("\n")) == (1, "", 1)
    assert message in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("a/enc", "a/enc.mlpackage"),
        ("enc.mlpackage", "enc.mlpackage"),
        ("fastvithd-0.5b", "fastvithd-0.5b.mlpackage"),
        ("-", "-"),
    ],
)
def test_the_name_of_a_package(typed: str, path: str):
    assert package_path(Path(typed)) == Path(path)


def test_a_quoted_home(run, tmp_path: Path, reference: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(reference / "llava-mini", tmp_path / "source")
    for command in ("convert", "export mlx-vlm"):
        out = command.split()[-1]
        code, printed, err = run(*command.split(), "~/source", f"~/{out}")
        assert code == 0, err
        assert printed.startswith(f"{tmp_path / out}: ")
    line = "not a Core ML package; give an .mlpackage"
    for package in ("~/source", tmp_path / "source"):
        code, _, err = run("verify", package, "-m", "~/source")
        assert (code, err) == (1, f"error: {tmp_path / 'source'}: {line}\n")
    code, _, err = run("chat", "-m", "demo", "-p", "Hi", "--schema", "~/none.json")
    assert code == 1 and f"{tmp_path}/none.json" in err


def kinds(folder: Path) -> list[str]:
    found = []
    for kind in (MODEL_FOLDER, PACKAGE):
        try:
            check_output(folder, overwrite=True, kind=kind)
            found.append(kind.name)
        except OptionError:
            pass
    return found


def test_what_the_commands_write_is_known_as_ours(run, tmp_path: Path, reference: Path):
    source = reference / "llava-mini"
    commands = [("convert", "a model"), ("export mlx-vlm", "a model")]
    try:
        import coremltools  # noqa: F401

        commands += [
            ("export ios --resolution 64", "a model"),
            ("export coreml --resolution 64", "a package"),
        ]
    except ImportError:
        pass
    for command, kind in commands:
        out = tmp_path / f"{len(os.listdir(tmp_path))}.mlpackage"
        code, _, err = run(*command.split(), source, out)
        assert code == 0, err
        assert kinds(out) == [kind]
        (out / "notes.txt").write_text("mine")
        assert kinds(out) == []
    # Another program's checkpoint has files of the same names.
    assert kinds(source) == []
    (tmp_path / "apple").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(source / name, tmp_path / "apple")
    with pytest.raises(OptionError, match="was not written by fastvlm-mlx"):
        check_output(tmp_path / "apple", overwrite=True, kind=MODEL_FOLDER)


def test_all_that_convert_copies_is_known():
    copied = [name.replace("*", "") for name in to_mlx.COMPANION_FILES]
    assert all(MODEL_FOLDER.files.fullmatch(name) for name in copied)
    assert not MODEL_FOLDER.files.fullmatch("LICENSES/mine")


def test_somebodys_package_in_a_model_folder(run, tmp_path: Path, reference: Path):
    code, _, err = run("convert", reference / "llava-mini", tmp_path / "model")
    assert code == 0, err
    package = tmp_path / "model" / "mine.mlpackage"
    package.mkdir()
    (package / "Manifest.json").write_text("{}")
    assert kinds(tmp_path / "model") == []
