"""Pretends that an extra of this package is not installed."""

import sys

import pytest

from fastvlm_mlx.processing import heif, pdf


def pretend_missing(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Makes the import of `module` fail for the rest of a test."""
    monkeypatch.setitem(sys.modules, module, None)
    for which in (heif, pdf):
        real = which.available
        monkeypatch.setattr(which, "available", getattr(real, "__wrapped__", real))
