"""`export coreai`, and `verify` and `info` of what it wrote."""

import json
import re
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

from fastvlm_mlx import coreai_runtime
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.errors import OptionError
from tests.support.coreai import needs_coreai


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{out} --precision bfloat16", "'bfloat16' is not one of 'float16', 'float32'"),
        ("{out} --compress palette8", "'palette8' is not one of 'int8', 'int8-block'"),
        ("{out} --resolution big", "--resolution big: use sizes such as 1024"),
        ("{out} --q-bits 3", "'3' is not one of '4', '8'"),
        ("{out}.aimodel", "export coreai writes a folder of several .aimodel; use "),
        ("{out} --attention per-head", "no such option: --attention"),
    ],
)
def test_wrong_command_lines_are_one_line(run, tmp_path, arguments, message):
    given = arguments.format(out=tmp_path / "out").split()
    code, printed, err = run("export", "coreai", "demo", *given)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "--precision int8: unknown; use float16, float32"),
        ({"compression": "int2"}, "--compress int2: unknown; use int8, int8-block, "),
        (
            {"compression": "int8", "precision": "float32"},
            "--compress int8: is for float16; leave out --precision float32",
        ),
        ({"norm_prescale": 3}, "--norm-prescale 3: use a power of two, or 1"),
        ({"q_bits": 3}, "--q-bits 3: use 4 or 8"),
        ({"q_bits": 4, "precision": "float32"}, "--q-bits 4: is for float16; leave"),
        ({"context": 8}, "--context 8: use 64 to 131072 tokens"),
        ({"resolutions": (64, 64)}, "--resolution 64,64: name each size once"),
    ],
)
def test_impossible_options(changes, message):
    with pytest.raises(OptionError, match=f"^{re.escape(message)}"):
        CoreAIOptions(**changes)


def test_a_missing_or_other_package_is_one_line(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(OptionError) as caught:
        coreai_runtime.import_coreai()
    assert str(caught.value).startswith("Core AI needs coreai-core==1.0.0b3, for Linux")
    assert "install" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(util, "find_spec", lambda name: sys)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0.0b1")
    with pytest.raises(OptionError, match="1.0.0b3, and 1.0.0b1 is installed; "):
        coreai_runtime.import_coreai()


def test_the_extra_pins_the_version_that_is_asked_for():
    import tomllib

    from tests.support.paths import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pin = f"coreai-core=={coreai_runtime.VERSION}"
    assert project["project"]["optional-dependencies"]["coreai"] == [pin]
    dev = project["dependency-groups"]["dev"]
    assert any(line.startswith(f"{pin};") for line in dev)


@needs_coreai
def test_export_verify_and_info(run, tmp_path: Path, reference: Path):
    source, out = reference / "llava-mini", tmp_path / "fastvlm"
    small = ("--resolution", "64", "--context", "64", "--q-bits", "8")
    code, printed, err = run("export", "coreai", source, out, *small)
    assert code == 0, err
    assert re.fullmatch(
        r"\S+/fastvlm: \d+.\d kB\n"
        r"vision main 64 px: [\d.]+ dB PSNR in Core AI, [\d.]+ s\n"
        r"embed main 256 rows: inf dB PSNR in Core AI, [\d.]+ s\n"
        r"language main 24 tokens: [\d.]+ dB PSNR in Core AI, [\d.]+ s\n",
        printed,
    )
    assert err.startswith("building the encoder's program of 64 px\n")
    code, printed, err = run("export", "coreai", source, out)
    assert (code, printed) == (1, "") and "exists already" in err
    code, printed, err = run("verify", out, "--model", source)
    assert (code, err, printed.count(" dB PSNR in Core AI")) == (0, "", 3)
    other = reference / "hf-mini"
    code, printed, err = run("verify", out / "vision.aimodel", "--model", other)
    assert code == 1 and err.count("\n") == 1
    assert err.endswith(f"; it is not of {other}, or drifts from it\n")
    for option in ("--strict", "--device"):
        code, printed, err = run("verify", out, "--model", source, option)
        assert (code, printed) == (2, "")
        assert f"{option}: is for an .mlpackage; leave it out for fastvlm" in err
    facts = json.loads(run("info", out, "--json").out)
    assert facts["assets"]["main"]["q_bits"] == "8"
    assert facts["language"]["max_context_length"] == 64
    table = run("info", out).out
    assert "main       language.aimodel, " in table and ", int8-block," in table
    (out / "vision.aimodel" / "main.mlirb").unlink()
    (out / "vision.aimodel").rename(out / "gone")
    code, printed, err = run("info", out)
    assert (code, printed) == (1, "") and "its vision, is missing; export it" in err
