"""Where conversions and the hub's downloads are kept, by environment variables."""

from pathlib import Path

import pytest

from fastvlm_mlx.files.cache_dir import hub_cache_dir

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
        ({"HF_HOME": "/hf", "XDG_CACHE_HOME": "/xdg"}, "/hf/hub"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/huggingface/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"}, "/old"),
        ({"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"}, "/new"),
        ({"HF_HOME": "~/$PART"}, "/home/me/part/hub"),
    ],
)
def test_the_hubs_cache(given: dict[str, str], wanted: str, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", "PART": "part", **given}.items():
        monkeypatch.setenv(name, value)
    assert hub_cache_dir() == Path(wanted)
