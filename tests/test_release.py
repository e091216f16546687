"""What publishes the package agrees with it: workflow, formula and first command."""

import re
import shutil
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from fastvlm_mlx import __version__
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = ROOT / ".github" / "workflows"
FORMULA = ROOT / "packaging" / "homebrew" / "fastvlm-mlx.rb"


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((WORKFLOWS / name).read_text("utf-8"))


def steps(job: dict[str, Any]) -> list[str]:
    return [step.get("uses") or step["run"] for step in job["steps"]]


def actions(name: str) -> set[str]:
    return set(re.findall(r"uses: (\S+)", (WORKFLOWS / name).read_text("utf-8")))


def test_only_a_person_starts_a_release():
    # YAML 1.1 reads `on` as true.
    assert workflow("release.yml")[True] == {
        "release": {"types": ["published"]},
        "workflow_dispatch": None,
    }


def test_nothing_is_published_unchecked():
    release = workflow("release.yml")
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["if"] == "github.event_name == 'release'"
    done = steps(build)
    order = [
        next(at for at, step in enumerate(done) if step.startswith(start))
        for start in (
            "actions/checkout@",
            "python -m build",
            "python -m twine check --strict",
            "test -f",
            "python -m venv installed",
            "actions/upload-artifact@",
        )
    ]
    assert order == sorted(order)
    # What is published is what was checked: no checkout, no second build.
    assert [step.split("@")[0] for step in steps(publish)] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


def test_trusted_publishing_and_least_rights():
    release = workflow("release.yml")
    assert release["permissions"] == {"contents": "read"}
    assert "permissions" not in release["jobs"]["build"]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]["name"] == "pypi"
    text = (WORKFLOWS / "release.yml").read_text("utf-8")
    assert "secrets." not in text and "password" not in text
    assert f"pypi.org/p/{PROJECT['name']}" in text


def test_actions_are_pinned_as_elsewhere():
    pinned = dict(action.split("@") for action in actions("test.yml"))
    for action in actions("release.yml"):
        name, version = action.split("@")
        if name != "pypa/gh-action-pypi-publish":  # which has this branch for it
            assert re.fullmatch(r"v\d+", version), action
            assert version == pinned.get(name, version)
        else:
            assert version == "release/v1"


def test_the_tag_check_names_the_wheel():
    tag = next(s for s in steps(workflow("release.yml")["jobs"]["build"]) if "TAG" in s)
    for name, code in ((f"v{__version__}", 0), (__version__, 0), ("v9.9.9", 1)):
        done = subprocess.run(
            ["bash", "-c", tag.replace("test -f ", "echo ")],
            env={"TAG": name},
            capture_output=True,
            text=True,
        )
        wheel = f"dist/fastvlm_mlx-{__version__}-py3-none-any.whl"
        assert (done.stdout.strip() == wheel) == (code == 0)


def formula(pattern: str) -> str:
    found = re.search(pattern, FORMULA.read_text("utf-8"), re.MULTILINE)
    assert found, pattern
    return found[1]


def test_the_formula_is_of_this_package():
    assert formula(r'^  desc "(.*)"') == PROJECT["description"].rstrip(".")
    assert formula(r'^  license "(.*)"') == PROJECT["license"]
    name = PROJECT["name"].replace("-", "_")
    assert formula(r'^  url "(.*)"').endswith(
        f"/f/{PROJECT['name']}/{name}-{__version__}.tar.gz"
    )
    assert re.fullmatch(r"[0-9a-f]{64}", formula(r'^  sha256 "(.*)"'))
    assert FORMULA.stem == PROJECT["name"]
    assert formula(r"^class (\w+) < Formula") == "FastvlmMlx"
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    python = formula(r'depends_on "python@(.*)"').split(".")
    assert list(map(int, python)) >= list(map(int, least))
    text = FORMULA.read_text("utf-8")
    assert f'opt_bin/"python{".".join(python)}"' in text
    extras = set(formula(r"source\[(.*)\]").split(","))
    assert extras <= set(PROJECT["optional-dependencies"])
    assert set(re.findall(r'bin\}?/(?:")?(fastvlm-mlx)', text)) == set(
        PROJECT["scripts"]
    )


def test_the_formula_is_ruby():
    if shutil.which("ruby") is None:
        pytest.skip("no ruby here")
    done = subprocess.run(["ruby", "-wc", FORMULA], capture_output=True, text=True)
    assert done.stdout == "Syntax OK\n" and not done.stderr, done.stderr


def test_the_first_command_of_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    first = re.search(r"```sh\n(.*)\n", readme)
    homepage = formula(r'^  homepage "(.*)"')
    assert first is not None
    assert first[1] == f"uvx --from git+{homepage} fastvlm-mlx chat image.png"
    assert formula(r'^  head "(.*)\.git"') == homepage
    # One backend of MLX at least is an extra on Linux, and is named.
    assert f'"fastvlm-mlx[cpu] @ git+{homepage}"' in readme
