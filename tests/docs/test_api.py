"""docs/api.md is current and has every public name and parameter."""

import griffe
import pytest

import fastvlm_mlx
from tests.support import make_api_page
from tests.support.make_api_page import PAGE, find, load_package, parameters


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    return load_package()


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == make_api_page.page(), "run `make docs`"


@pytest.mark.parametrize("name", make_api_page.public_names())
def test_every_public_name_and_parameter_is_there(name: str, package):
    short = name.rpartition(".")[2]
    text = PAGE.read_text(encoding="utf-8")
    _, found, section = text.partition(f"\n### {short}\n")
    assert found
    section = section.partition("\n### ")[0]
    member = find(package, name)
    assert member.docstring is not None
    if not short.endswith("Error"):
        missing = [p.name for p in parameters(member) if p.name not in section]
        assert not missing


def test_what_griffe_finds_is_what_is_imported(package):
    """The names that the package loads lazily are those that griffe reads."""
    for name in fastvlm_mlx.__all__:
        if name != "__version__":
            assert find(package, name).path.endswith(
                getattr(fastvlm_mlx, name).__name__
            )


def test_a_section_without_an_empty_line_before_it_is_read():
    assert "\nRaises:\n\n- `CheckpointError`: " in make_api_page.page()
