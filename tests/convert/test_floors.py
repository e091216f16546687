"""Imports inside convert/ point down: outputs, formats, what formats share, readers;
and the example in the docstring of `convert` runs."""

import ast
import re
import textwrap

import pytest

from fastvlm_mlx.convert import to_mlx
from tests.support.paths import ROOT

HERE = ROOT / "convert"
OUTPUTS = {"to_mlx", "to_coreai", "to_coreml", "to_ios", "to_mlx_vlm"}
SHARED = {
    "encoder_reference",
    "encoder_walk",
    "temporary_files",
    "weight_compression",
}


def imported(folder: str) -> set[str]:
    """Full names of all modules and symbols that the files of `folder` import."""
    names = set()
    for file in (HERE / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("source", set()),
        ("fold", set()),
        ("coreml", SHARED),
        ("coreai", SHARED | {"outputs"}),
    ],
)
def test_a_lower_room_imports_what_is_below(folder: str, allowed: set[str]):
    prefix = "fastvlm_mlx.convert."
    rooms = {
        name.removeprefix(prefix).split(".")[0]
        for name in imported(folder)
        if name.startswith(prefix)
    }
    # `from fastvlm_mlx.convert.source import layouts` names the room itself.
    assert rooms <= allowed | {folder}
    assert not rooms & OUTPUTS


@pytest.mark.parametrize("folder", ["source", "fold", "coreml", "coreai"])
def test_a_lower_room_does_not_know_the_public_api(folder: str):
    above = ("fastvlm_mlx.fastvlm", "fastvlm_mlx.model_folder", "fastvlm_mlx.app")
    assert not [name for name in imported(folder) if name.startswith(above)]


def test_the_example_of_convert_runs(tmp_path, monkeypatch):
    text = textwrap.dedent(to_mlx.convert.__doc__ or "")
    lines = re.findall(r">>> (.*)", text)
    assert len(lines) >= 4
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict = {}
    for line in lines:
        exec(line, names)
    assert names["report"].agreement.top1 > 0.9
    assert (tmp_path / "demo-8bit" / "config.json").is_file()
