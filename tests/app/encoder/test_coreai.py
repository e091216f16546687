"""`--encoder coreai` on a Mac that is pretended; the asset runs in Apple's runtime."""

import platform
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.app.encoder import coreai, packages
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.coreai_encoder import CoreAIEncoder, require_macos
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.fastvlm import load
from tests.support.coreai import needs_coreai


@pytest.mark.parametrize(
    ("system", "version", "where"),
    [
        ("linux", "", "Linux"),
        ("darwin", "26.4", "macOS 26.4"),
        ("darwin", "15.6.1", "macOS 15.6.1"),
    ],
)
def test_only_macos_27_encodes_with_core_ai(monkeypatch, system, version, where):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), ""))
    message = f"^Core AI encodes on macOS 27 or later, not on {where}; use --encoder m"
    with pytest.raises(OptionError, match=message):
        packages.check("coreai", None)


def test_what_is_refused_before(tmp_path: Path):
    with pytest.raises(OptionError, match="--compute-units cpu: is for Core ML; leave"):
        packages.check("coreai", "cpu")
    missing = tmp_path / "x.aimodel"
    with pytest.raises(OptionError, match=r"x\.aimodel: no such \.aimodel; check the"):
        packages.check(str(missing), None)


@needs_coreai
def test_a_model_encodes_with_its_own_asset(monkeypatch, reference: Path):
    monkeypatch.setattr(platform, "mac_ver", lambda: ("27.0", ("", "", ""), "arm64"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        require_macos()
    name = str(reference / "llava-mini")
    model = load(name, dtype="float32")
    pixels = np.random.default_rng(0).random((2, 256, 256, 3), np.float32)
    expected = np.array(model.encode_pixels(pixels))
    with packages.in_use(model, name, "coreai"):
        assert isinstance(model.encoder, CoreAIEncoder)
        found = np.array(model.encode_pixels(pixels).astype(mx.float32))
        with pytest.raises(OptionError, match="--resolution 64: llava-mini-.* holds 2"):
            model.encode_features(pixels[:, :64, :64])
    assert psnr(expected, found) > 45
    assert model.encoder is None
    path = coreai.own_asset(name)
    written = (path / "main.mlirb").stat().st_mtime_ns
    assert coreai.own_asset(name) == path  # made once
    assert (path / "main.mlirb").stat().st_mtime_ns == written
