"""`--adapter` in every command that has it, and its refusals: one line, exit code 1."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvlm_mlx import load
from fastvlm_mlx.adapters.files import write_adapter
from fastvlm_mlx.adapters.spec import AdapterSpec
from tests.conftest import Result
from tests.support.mock_model import MockModel
from tests.support.small_adapters import make_adapter

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def flags(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "flags"
    adapter = make_adapter(load(tiny), AdapterSpec(rank=3, projector=True), 0.4)
    write_adapter(folder, adapter)
    return folder


def chat(run: Run, coffee: Path, *options: object) -> dict:
    words = ("-p", "What is it?", "--max-tokens", "6", "--json")
    result = run("chat", coffee, *words, *options)
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_chat(run: Run, coffee: Path, tiny: str, flags: Path):
    plain = chat(run, coffee, "--model", tiny)
    tuned = chat(run, coffee, "--model", tiny, "--adapter", flags)
    assert tuned["answer"] != plain["answer"]
    assert (plain["model"], tuned["model"]) == (tiny, f"{tiny}:flags")


def test_captions_of_a_model_with_an_adapter_are_its_own(
    run: Run, coffee: Path, tiny: str, flags: Path, tmp_path: Path
):
    out = tmp_path / "captions.jsonl"
    words = ("caption", coffee, "-o", out, "--model", tiny, "--max-tokens", "6")
    result = run(*words, "--adapter", flags)
    assert result.code == 0
    line = json.loads(out.read_text())
    assert line["model"] == f"{tiny}:flags" and line["caption"]
    # Gone on with by the same adapter only.
    assert run(*words, "--adapter", flags).code == 0
    other = run(*words)
    assert other.code == 1 and "captions.jsonl" in other.err


def test_info_says_what_the_adapter_is(run: Run, tiny: str, flags: Path):
    facts = json.loads(run("info", tiny, "--adapter", flags, "--json").out)["adapter"]
    assert (facts["name"], facts["method"], facts["rank"]) == ("flags", "lora", 3)
    assert facts["projector"] is True and facts["layers"] > 1
    assert facts["bytes"] == 4 * facts["parameters"]
    table = run("info", tiny, "--adapter", flags).out
    assert "\nadapter    flags: lora, " in table and "with a projector" in table
    assert "\nadapter" not in run("info", tiny).out


def test_bench_measures_with_it(run: Run, tiny: str, flags: Path):
    words = ("--runs", "1", "--warmup", "0", "--max-tokens", "2", "--no-cold", "--json")
    result = run("bench", "--model", tiny, "--adapter", flags, *words)
    assert json.loads(result.out)["model"] == f"{tiny}:flags"


@pytest.mark.parametrize("bits", [None, 8])
def test_convert_merges(
    run: Run, coffee: Path, tiny: str, flags: Path, tmp_path: Path, bits: int | None
):
    out = tmp_path / "merged"
    quantize = ("--q-bits", bits) if bits else ()
    result = run("convert", tiny, out, "--adapter", flags, *quantize)
    assert result.code == 0, result.err
    config = json.loads((out / "config.json").read_text())
    assert config["source"]["adapter"] == "flags"
    tuned = chat(run, coffee, "--model", tiny, "--adapter", flags)
    merged = chat(run, coffee, "--model", out)
    if bits is None:
        assert merged["answer"] == tuned["answer"]
    # It is not the model that the adapter was trained on any more.
    again = run("convert", out, tmp_path / "twice", "--adapter", flags)
    assert again.code == 1 and not (tmp_path / "twice").exists()
    fault = "cannot be merged into a quantized" if bits else "with flags merged into it"
    assert fault in again.err and again.err.count("\n") == 1


COMMANDS = {
    "chat": ("chat", "{coffee}", "-p", "Hi", "--model", "{tiny}"),
    "caption": ("caption", "{coffee}", "--model", "{tiny}"),
    "info": ("info", "{tiny}"),
    "bench": ("bench", "--model", "{tiny}"),
    "convert": ("convert", "{tiny}", "{out}"),
    "export ios": ("export", "ios", "{tiny}", "{out}"),
    "export mlx-vlm": ("export", "mlx-vlm", "{tiny}", "{out}"),
    "serve": ("serve", "--model", "{tiny}", "--port", "0"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_adapter_of_another_model_is_refused_by_name(
    run: Run, coffee: Path, tiny: str, tmp_path: Path, command: str
):
    folder = tmp_path / "faces"
    mock = MockModel(source={"name": "mock"})
    write_adapter(folder, make_adapter(mock, AdapterSpec(rank=3)))
    names = {"coffee": coffee, "tiny": tiny, "out": tmp_path / "out"}
    words = [word.format(**names) for word in COMMANDS[command]]
    result = run(*words, "--adapter", folder)
    assert result.code == 1
    assert result.err.count("\n") == 1, result.err
    assert f"{folder}: is an adapter of mock (" in result.err
    assert "not of llava-mini" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_such_adapter_is_said_before_anything_is_done(
    run: Run, coffee: Path, tmp_path: Path, command: str
):
    """The model is one that would have to be downloaded, and the hub is offline."""
    names = {"coffee": coffee, "tiny": "nobody/nothing", "out": tmp_path / "out"}
    words = [word.format(**names) for word in COMMANDS[command]]
    result = run(*words, "--adapter", tmp_path / "none")
    assert result.code == 1
    assert result.err == (
        f"error: {tmp_path / 'none'}: no such folder; give the folder of an adapter,"
        " which has adapter_config.json and adapters.safetensors\n"
    )


def test_a_model_is_no_adapter(run: Run, coffee: Path, tiny: str, tmp_path: Path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    result = run("chat", coffee, "-p", "Hi", "--model", tiny, "--adapter", folder)
    assert result.code == 1 and "model: is a model, not an adapter" in result.err
