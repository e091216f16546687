"""What tests share: the reference data, the program, small models."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support import bytecode
from tests.support.garbage import Garbage
from tests.support.skips import Skips

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM
    from fastvlm_mlx.processing.tokenizer import Tokenizer
    from tests.support.mock_model import MockModel
    from tests.support.serving import RunningServer

# A shell that starts the tests in the background has Ctrl-C ignored, and children
# inherit that; some tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# float32 means float32: an M5 and CUDA would round products to TF32. MLX reads
# this when it is imported.
os.environ["MLX_ENABLE_TF32"] = "0"

# OpenBLAS' threads spin while they wait, which is slow where as many tests run at once
# as there are cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

REFERENCES = Path(__file__).parent / "references"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Garbage())
    config.pluginmanager.register(Skips())
    bytecode.keep(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay in one process, which makes what they share once."""
    if config.getoption("dist") != "load":  # another was asked for
        return None
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def images() -> Path:
    """A few small images, with what plain PIL makes of them."""
    return REFERENCES / "images"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference checkpoints, one folder per layout."""
    return REFERENCES


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the conversions that the user of this machine has."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVLM_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session", autouse=True)
def products_in_float32() -> Iterator[None]:
    """The same numbers on processors that multiply bfloat16; tests of it say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVLM_BFLOAT16", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def hub_library_online() -> None:
    """huggingface_hub keeps for good whether it was offline when it was imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("TRANSFORMERS_OFFLINE", raising=False)
        import huggingface_hub.constants  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def fast_products(pytestconfig: pytest.Config) -> Iterator[None]:
    """Most tests make their models without `load`, which binds OpenBLAS."""
    import mlx.core  # noqa: F401  bind() needs the library loaded

    from fastvlm_mlx.cpu import openblas
    from tests.support.kept_kernels import kept_kernels

    openblas.bind()
    with kept_kernels(pytestconfig):
        yield


class Result(NamedTuple):
    """What a call of the program came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path_factory) -> Callable[..., Result]:
    """Calls the program with arguments and a piped standard input."""
    from fastvlm_mlx.app import cli

    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("FASTVLM_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("FASTVLM_MODEL", raising=False)

    def call(*arguments: object, stdin: bytes | str = b"") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as exit:
            cli.main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Result(exit.value.code, shown.out, shown.err)

    return call


@pytest.fixture(scope="session")
def coffee(images: Path) -> Path:
    return images / "coffee.png"


@pytest.fixture(scope="session")
def tiny(reference: Path) -> str:
    """The name of a tiny checkpoint of the published form."""
    return str(reference / "llava-mini")


@pytest.fixture(scope="session")
def tiny_model(tiny: str) -> "FastVLM":
    from fastvlm_mlx import load

    return load(tiny)


@pytest.fixture(scope="session")
def server(reference: Path) -> "Iterator[RunningServer]":
    """`fastvlm-mlx serve` with the tiny model, without a token."""
    pytest.importorskip("starlette")
    from tests.support.serving import running

    with running(reference / "llava-mini") as started:
        yield started


@pytest.fixture(scope="session")
def shared_model() -> "MockModel":
    from tests.support.mock_model import MockModel

    return MockModel()


@pytest.fixture
def model(shared_model: "MockModel") -> "MockModel":
    """Random weights; it remembers no image and no prompt of another test."""

    shared_model.feature_cache.clear()
    shared_model.encoded = 0
    return shared_model


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from tests.support.mock_model import make_image

    path = tmp_path / "photo.png"
    make_image(1).save(path)
    return path


@pytest.fixture(scope="session")
def mini() -> "Tokenizer":
    """1,539 tokens of Qwen2's kind."""
    from fastvlm_mlx.processing.tokenizer import Tokenizer
    from tests.support.small_tokenizers import MINI

    return Tokenizer(MINI)


@pytest.fixture(scope="session")
def vicuna(tmp_path_factory: pytest.TempPathFactory) -> "Tokenizer":
    from fastvlm_mlx.processing.tokenizer import Tokenizer
    from tests.support.small_tokenizers import write_vicuna

    folder = tmp_path_factory.mktemp("vicuna")
    write_vicuna(folder)
    return Tokenizer(folder)
