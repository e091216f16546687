"""`make lint` refuses an import that points up, and a circle, wherever it stands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, links and contracts."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("fastvlm_mlx", "app", "convert"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            symlinks=True,
            ignore=lambda _, names: [n for n in names if n in ("__pycache__", "demo")],
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(checkout: Path) -> tuple[int, str]:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"], cwd=checkout, capture_output=True, text=True
    )
    return done.returncode, " ".join(done.stdout.split())


def test_the_floors_hold(checkout: Path):
    code, report = lint(checkout)
    assert code == 0, report
    assert "0 broken" in report


# An import in a function, one for a type, one inside the app, and a circle.
UPWARD = (
    (
        "fastvlm_mlx/files/json_file.py",
        "def late():\n    from fastvlm_mlx.generation import stream as _",
        "fastvlm_mlx.files is not allowed to import fastvlm_mlx.generation",
    ),
    (
        "fastvlm_mlx/model/vlm.py",
        "if TYPE_CHECKING:\n    from fastvlm_mlx.fastvlm import FastVLM",
        "fastvlm_mlx.model is not allowed to import fastvlm_mlx.fastvlm",
    ),
    (
        "app/session.py",
        "from fastvlm_mlx.app.chat import run",
        "fastvlm_mlx.app.session is not allowed to import fastvlm_mlx.app.chat",
    ),
    (
        "fastvlm_mlx/conversation/attachment.py",
        "from fastvlm_mlx.conversation import conversation",
        "No cycles are allowed in fastvlm_mlx.conversation",
    ),
)


def test_upward_imports_are_refused(checkout: Path):
    for file, line, _ in UPWARD:
        with (checkout / file).open("a", encoding="utf-8") as written:
            written.write(f"\n{line}\n")
    code, shown = lint(checkout)
    assert code == 1
    for _, _, report in UPWARD:
        assert report in shown
