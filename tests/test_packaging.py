"""What is installed, under which names, and what importing it costs."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastvlm_mlx
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What costs seconds to import and has no place in a first token.
HEAVY = {"transformers", "mlx_lm", "coremltools", "torch", "huggingface_hub"}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_public_names_are_sorted_and_there():
    names = fastvlm_mlx.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(fastvlm_mlx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = fastvlm_mlx.missing  # pyright: ignore


def test_importing_costs_nothing():
    loaded = modules_after("import fastvlm_mlx")
    assert not loaded & (HEAVY | {"mlx", "numpy", "PIL", "typer"})


def test_the_command_line_starts_light():
    code = "from fastvlm_mlx.app import cli\ntry: cli.main(['--help'])\n"
    loaded = modules_after(code + "except SystemExit: pass")
    assert not loaded & (HEAVY | {"mlx", "numpy", "PIL"})


def test_a_model_loads_without_the_heavy_libraries(reference: Path):
    model = reference / "llava-mini"
    loaded = modules_after(f"import fastvlm_mlx\nfastvlm_mlx.load({str(model)!r})")
    assert "mlx" in loaded
    assert not loaded & (HEAVY - {"mlx_lm", "huggingface_hub"})


def test_mlx_lm_can_still_be_imported_in_full():
    modules_after(
        "from fastvlm_mlx.model.language import mlx_lm_module\n"
        "qwen2 = mlx_lm_module('models.qwen2')\n"
        "cache = mlx_lm_module('models.cache')\n"
        "assert mlx_lm_module('models.qwen2') is qwen2\n"
        "assert not [name for name in sys.modules if name.startswith('mlx_lm')]\n"
        "import mlx_lm\n"
        "assert mlx_lm.load and mlx_lm.models.cache.KVCache"
    )


def test_every_package_folder_is_installed():
    """`packages` and `package-dir` name exactly the folders that hold modules."""
    setuptools = PROJECT["tool"]["setuptools"]
    packages, places = set(), {}
    for name, top in (
        ("fastvlm_mlx", "fastvlm_mlx"),
        ("fastvlm_mlx.app", "app"),
        ("fastvlm_mlx.convert", "convert"),
    ):
        # rglob does not follow the links of fastvlm_mlx/ to the other two.
        for file in (ROOT / top).rglob("__init__.py"):
            if "convert" in file.parts[len(ROOT.parts) + 1 :] or (
                top == "fastvlm_mlx" and "app" in file.parts[len(ROOT.parts) + 1 :]
            ):
                continue
            below = file.parent.relative_to(ROOT / top).parts
            package = ".".join((name, *below))
            packages.add(package)
            if top != "fastvlm_mlx":
                places[package] = "/".join((top, *below))
    assert sorted(setuptools["packages"]) == sorted(packages)
    assert setuptools["package-dir"] == places


def test_the_links_show_checkers_the_installed_tree():
    for name in ("app", "convert"):
        link = ROOT / "fastvlm_mlx" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_no_torch_among_the_dependencies():
    names = " ".join(PROJECT["project"]["dependencies"])
    assert "torch" not in names and "transformers" not in names
