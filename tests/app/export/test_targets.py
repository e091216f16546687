"""The command line of Core ML exports: what is printed, and every refusal."""

import re
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--compress int8", "--compress: needs --coreml or --target ios"),
        ("--target mlx-vlm --resolution 512", "--resolution: needs --coreml or"),
        ("--coreml --target ios", "--coreml --target ios: use one of them"),
        ("--coreml --q-bits 4", "--q-bits: has no meaning with --coreml; leave it out"),
        ("--target ios --dtype float32", "--dtype: has no meaning with --target ios"),
        ("--target mlx-vlm --encoder-from x", "--encoder-from: has no meaning with"),
        ("--coreml --resolution big", "--resolution big: use sizes such as 1024 or"),
    ],
)
def test_wrong_combinations_are_one_line(run, tmp_path, arguments, message):
    out = tmp_path / "x.mlpackage"
    code, printed, err = run("convert", "demo", out, *arguments.split())
    assert (code, printed) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not out.exists()


def test_export_and_verify(run, tmp_path: Path, reference: Path):
    pytest.importorskip("coremltools")
    source, out = reference / "llava-mini", tmp_path / "fastvithd.mlpackage"
    small = ("--resolution", "128", "--compress", "int8")
    code, printed, err = run("convert", source, out, "--coreml", *small)
    assert code == 0, err
    assert re.fullmatch(
        r"\S+fastvithd.mlpackage: \d+.\d kB\n"
        r"main 128 px: \d\d\.\d dB PSNR, 98 operations, largest value \S+ \(\w+\)\n",
        printed,
    )
    assert "building the program of 128 px\ncomparing it with the MLX enc" in err
    code, printed, err = run("convert", source, out, "--coreml")
    assert (code, printed) == (1, "") and "exists already" in err
    code, printed, err = run("verify", out, "--model", source, "--strict")
    assert code == 0 and "(strict" in printed
    other = reference / "hf-mini"
    code, printed, err = run("verify", out, "--model", other)
    assert code == 1 and "dB PSNR at 128 px is below 25 dB; it does not hold" in err


def test_a_mac_is_needed(run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    package = tmp_path / "x.mlpackage"
    package.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = ("chat", tmp_path / "a.png", "-p", "x")
    for encoder in ("coreml", package):
        code, _, err = run(*asked, "--encoder", encoder)
        assert code == 1
        assert "Core ML runs on macOS only" in err and err.count("\n") == 1
    code, _, err = run("verify", package, "-m", "demo", "--device")
    assert code == 1 and "Core ML runs on macOS only" in err
    code, _, err = run(*asked, "--encoder", "onnx")
    assert code == 1 and "--encoder onnx: use auto, mlx, coreml or an .mlpackage" in err
    code, _, err = run(*asked, "--compute-units", "cpu")
    assert "--compute-units cpu: needs --encoder coreml" in err
