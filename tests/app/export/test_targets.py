"""`export` and `verify`: what is written and printed, and every refusal."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("convert demo {out} --coreml", "--coreml: is `fastvlm-mlx export coreml SRC"),
        ("convert demo {out} --target ios", "is `fastvlm-mlx export ios SRC OUT` now"),
        ("convert demo {out} --compress int8", "no such option: --compress"),
        ("export coreml demo {out} --q-bits 4", "no such option: --q-bits"),
        ("export ios demo {out} --dtype float32", "no such option: --dtype"),
        ("export mlx-vlm demo {out} --resolution 512", "no such option: --resolution"),
        ("export coreml demo {out} --resolution big", "--resolution big: use sizes"),
        ("export coreml demo {out}.onnx", ".onnx: a Core ML package is called NAME.ml"),
        ("export onnx demo {out}", "no such command 'onnx'"),
    ],
)
def test_wrong_command_lines_are_one_line(run, tmp_path, arguments, message):
    code, printed, err = run(*arguments.format(out=tmp_path / "out").split())
    assert (code, printed) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["coreml", "ios", "mlx-vlm"])
def test_an_output_that_exists_is_refused_before_a_download(run, tmp_path, target):
    out = tmp_path / "out.mlpackage"
    out.mkdir()
    code, printed, err = run("export", target, "0.5b", out)
    assert (code, printed) == (1, "")
    assert err == f"error: {out}: exists already; name another output or pass" + (
        " --overwrite\n"
    )


def test_export_and_verify(run, tmp_path: Path, reference: Path):
    pytest.importorskip("coremltools")
    source, out = reference / "llava-mini", tmp_path / "fastvithd.mlpackage"
    small = ("--resolution", "128", "--compress", "int8")
    # The suffix may be left out.
    code, printed, err = run("export", "coreml", source, tmp_path / "fastvithd", *small)
    assert code == 0, err
    assert re.fullmatch(
        r"\S+fastvithd.mlpackage: \d+.\d kB\n"
        r"main 128 px: \d\d\.\d dB PSNR, 98 operations, largest value \S+ \(\w+\)\n",
        printed,
    )
    assert "building the program of 128 px\ncomparing it with the MLX enc" in err
    code, printed, err = run("export", "coreml", source, out)
    assert (code, printed) == (1, "") and "exists already" in err
    code, printed, err = run("verify", out, "--model", source, "--strict")
    assert code == 0 and "(strict" in printed
    other = reference / "hf-mini"
    code, printed, err = run("verify", out, "--model", other)
    assert code == 1 and "dB PSNR at 128 px is below 25 dB; it does not hold" in err


def test_the_folders_of_other_programs(run, tmp_path: Path, reference: Path):
    pytest.importorskip("coremltools")
    source = reference / "llava-mini"
    code, printed, err = run(
        "export", "ios", source, tmp_path / "ios", "--q-bits", "none"
    )
    assert code == 0, err
    assert "memory on a phone: " in printed
    assert "quantization" not in json.loads((tmp_path / "ios/config.json").read_text())
    code, printed, err = run(
        "export", "mlx-vlm", source, tmp_path / "vlm", "--q-bits", "4"
    )
    assert code == 0, err
    stored = json.loads((tmp_path / "vlm/config.json").read_text())
    assert stored["quantization"] == {"group_size": 64, "bits": 4}


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
    assert code == 1 and "--encoder onnx: use auto, mlx, coreml, coreai, an" in err
    code, _, err = run(*asked, "--compute-units", "cpu")
    assert "--compute-units cpu: needs --encoder coreml" in err
