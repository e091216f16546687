"""What llguidance says of a schema: faults are raised, warnings are not."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation import json_schema


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("", None),
        ("WARNING: a pattern is slow", None),
        ("a WARNING: at its start", "a WARNING: at its start"),
        ("ERROR: too\n  complex", "ERROR: too complex"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + "..."),
    ],
)
def test_faults_and_warnings(monkeypatch, said: str, fault: str | None):
    asked = []

    def validate_grammar(grammar: str, limits: object) -> str:
        asked.append((grammar, limits))
        return said

    module = SimpleNamespace(
        LLMatcher=SimpleNamespace(
            grammar_from_json_schema=lambda text, overrides: text,
            validate_grammar=validate_grammar,
        ),
        LLParserLimits=lambda **limits: limits,
    )
    monkeypatch.setattr(json_schema, "import_llguidance", lambda: module)
    if fault is None:
        json_schema.check_schema({"a": 1})
    else:
        with pytest.raises(OptionError) as caught:
            json_schema.check_schema({"a": 1})
        assert str(caught.value) == (
            f"schema: cannot be followed ({fault}); simplify it"
        )
    assert asked == [('{"a": 1}', json_schema.limits())]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit memory")
@pytest.mark.parametrize(("megabytes", "status"), [(2048, 0), (8, 1)])
def test_the_process_that_checks_has_limited_memory(megabytes: int, status: int):
    code = (
        "from fastvlm_mlx.generation import json_schema\n"
        f"json_schema.MEMORY = {megabytes} << 20\n"
        "json_schema.main()\n"
        "bytes(64 << 20)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input='{"type": "string"}',
        text=True,
        capture_output=True,
    )
    assert (run.returncode != 0) is (status != 0), run.stderr
