"""Variables that say how the hub is reached, with values that cannot work."""

from pathlib import Path

import pytest

from fastvlm_mlx.errors import DownloadError
from fastvlm_mlx.hub.download import hub_answers
from fastvlm_mlx.hub.environment import endpoint, offline_variable
from fastvlm_mlx.hub.locate import choose_default, locate
from tests.support.hub_server import empty_machine

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine without a hub."""
    empty_machine(monkeypatch, tmp_path, NOWHERE)
    return tmp_path


def failure(name: str = "0.5b") -> str:
    with pytest.raises(DownloadError) as caught:
        locate(name)
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_endpoint(monkeypatch: pytest.MonkeyPatch):
    assert endpoint() == NOWHERE
    monkeypatch.setenv("HF_ENDPOINT", " https://hf-mirror.example/ ")
    assert endpoint() == "https://hf-mirror.example"
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert endpoint() == "https://huggingface.co"


@pytest.mark.parametrize(
    ("address", "fault", "instead"),
    [
        (
            "hf-mirror.example",
            "has no https:// before it",
            "https://hf-mirror.example",
        ),
        ("localhost:8080", "has no https:// before it", "https://localhost:8080"),
        ("ftp://hub.example", "has no https:// before it", "https://hub.example"),
        ("https://", "not a web address", "https://huggingface.co"),
        ("https://a b", "not a web address", "https://huggingface.co"),
        ("https://hub:x", "not a web address (Port could", "https://huggingface.co"),
        ("http://[::1", "not a web address (Invalid IPv6", "https://huggingface.co"),
    ],
)
def test_an_endpoint_that_is_no_address(
    monkeypatch: pytest.MonkeyPatch, address: str, fault: str, instead: str
):
    monkeypatch.setenv("HF_ENDPOINT", address)
    line = failure()
    assert line.startswith(f"HF_ENDPOINT={address}: {fault}")
    assert line.endswith(f"; set HF_ENDPOINT={instead}")
    assert not hub_answers("apple/FastVLM-0.5B")
    model, why = choose_default()
    assert model == "demo" and f"HF_ENDPOINT={address}: {fault}" in why


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("HTTPS_PROXY", "proxy:port", "HTTPS_PROXY=proxy:port: not a proxy's address"),
        ("all_proxy", "ftp://proxy", "all_proxy=ftp://proxy: not a proxy's address"),
        ("HTTP_PROXY", "socks5://a:1", "0.5B: a SOCKS proxy needs socksio; pip"),
        ("HTTP_PROXY", NOWHERE, "; check the network and HTTP_PROXY, or pass --model"),
        ("HF_TOKEN", "hf_a\nb", "HF_TOKEN: holds a space, a line break or a letter"),
        ("HF_TOKEN", "hf_\u00e9", "HF_TOKEN: holds a space, a line break or a letter"),
        ("HF_HUB_ETAG_TIMEOUT", "soon", "HF_HUB_ETAG_TIMEOUT=soon: not a number of"),
        ("SSL_CERT_FILE", "/none", "SSL_CERT_FILE=/none: does not exist; unset it"),
        ("HF_TOKEN", "hf_ab\n", "no answer from http://127.0.0.1:9"),
        ("HF_HUB_OFFLINE", "1", "the cache, and HF_HUB_OFFLINE is set; unset it"),
        ("TRANSFORMERS_OFFLINE", "on", "and TRANSFORMERS_OFFLINE is set; unset it"),
    ],
)
def test_variables_of_the_network(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
):
    monkeypatch.setenv(name, value)
    assert line in failure()


def test_offline_variables(monkeypatch: pytest.MonkeyPatch):
    assert offline_variable() is None
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert offline_variable() == "TRANSFORMERS_OFFLINE"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert offline_variable() is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    assert offline_variable() == "HF_HUB_OFFLINE"


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_a_home_that_is_no_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    (home / "file").touch()
    monkeypatch.setenv(name, str(home / "file"))
    assert failure() == (
        f"{home / 'file'}: is no folder, but downloads are kept below it; set {name}"
        " to another folder"
    )
