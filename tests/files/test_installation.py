"""The command that installs an extra names packages that exist."""

import importlib.util
import shlex
import shutil
import sys
from importlib import metadata

import pytest

from fastvlm_mlx.files.installation import install_command


def requirements(extra: str) -> list[str]:
    lines = metadata.requires("fastvlm-mlx") or []
    return [line.split(";")[0].strip() for line in lines if f'"{extra}"' in line]


@pytest.mark.parametrize(
    ("on_path", "has_pip", "installer"),
    [
        (sys.executable, True, ["pip", "install"]),
        ("/usr/bin/python", True, [sys.executable, "-m", "pip", "install"]),
        (None, True, [sys.executable, "-m", "pip", "install"]),
        (None, False, ["uv", "pip", "install", "--python", sys.executable]),
    ],
)
def test_the_packages_of_an_extra(monkeypatch, on_path, has_pip, installer):
    monkeypatch.setattr(shutil, "which", lambda name: on_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_pip or None)
    words = shlex.split(install_command("serve"))
    assert words == [*installer, *requirements("serve")]
    assert any(word.startswith("llguidance") for word in words)
    assert not any("fastvlm" in word for word in words[len(installer) :])
    torch = [word for word in shlex.split(install_command("torch")) if "torch" in word]
    assert torch == requirements("torch")


def test_a_package_without_metadata(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert install_command("serve").endswith("'fastvlm-mlx[serve]'")
