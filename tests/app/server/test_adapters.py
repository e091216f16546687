"""A server with adapters: each is a model of its own, on the weights of one."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

pytest.importorskip("starlette")

from fastvlm_mlx import load  # noqa: E402
from fastvlm_mlx.adapters.files import write_adapter  # noqa: E402
from fastvlm_mlx.adapters.spec import AdapterSpec  # noqa: E402
from fastvlm_mlx.app.server.engine.load import load_engine  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.app.session import UsageError, read_adapters  # noqa: E402
from fastvlm_mlx.errors import AdapterError  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402
from tests.support.small_adapters import flat, make_adapter  # noqa: E402


@pytest.fixture(scope="module")
def folders(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    model = load(reference / "llava-mini")
    folder = tmp_path_factory.mktemp("adapters")
    specs = (AdapterSpec(rank=3), AdapterSpec("dora", rank=3, projector=True))
    folders = [folder / "Flags", folder / "receipts"]
    for place, spec in zip(folders, specs, strict=True):
        write_adapter(place, make_adapter(model, spec, 0.5))
    return folders


@pytest.fixture(scope="module")
def server(reference: Path, folders: list[Path]) -> Iterator[RunningServer]:
    with running(reference / "llava-mini", adapters=folders) as started:
        yield started


NAMES = ["tiny", "tiny:Flags", "tiny:receipts"]


def answer(server: RunningServer, model: str) -> str:
    body = server.ask(model=model, max_tokens=6).json()
    assert body["model"] == model
    return body["choices"][0]["message"]["content"]


def test_both_protocols_list_all_models(server: RunningServer):
    listed = server.send("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == NAMES
    listed = server.send("/api/tags").json()["models"]
    assert [model["name"] for model in listed] == NAMES
    parents = [model["details"]["parent_model"] for model in listed]
    assert parents == ["", "tiny", "tiny"]
    sizes = [model["size"] for model in listed]
    assert sizes[0] < sizes[1] and len({model["digest"] for model in listed}) == 3


def test_a_model_is_described_by_its_name(server: RunningServer):
    assert server.send("/v1/models/tiny:flags").json()["id"] == "tiny:Flags"
    shown = server.send("/api/show", {"model": "tiny:receipts"}).json()
    assert shown["details"]["parent_model"] == "tiny"


def test_each_name_has_answers_of_its_own(server: RunningServer):
    first = {name: answer(server, name) for name in NAMES}
    assert len(set(first.values())) == 3
    # Again, when each finds the chat of the one before in some cache.
    assert {name: answer(server, name) for name in reversed(NAMES)} == first
    assert answer(server, "TINY:flags:latest") == first["tiny:Flags"]
    assert answer(server, "tiny:latest") == answer(server, "default") == first["tiny"]


def test_ollamas_protocol_knows_the_names_too(server: RunningServer):
    def reply(model: str) -> str:
        options = {"num_predict": 6, "temperature": 0}
        body = {"model": model, "prompt": "Hello", "stream": False, "options": options}
        return server.send("/api/generate", body).json()["response"]

    assert len({reply(name) for name in NAMES}) == 3


def test_json_of_a_schema_with_an_adapter(server: RunningServer):
    form = {"type": "json_object"}
    given = server.ask(model="tiny:Flags", response_format=form)
    assert given.status == 200


def test_an_unknown_name_is_told_all_there_are(server: RunningServer):
    given = server.ask(model="tiny:faces")
    assert given.status == 404
    assert given.json()["error"]["message"] == (
        "The model 'tiny:faces' does not exist; this server has 'tiny', 'tiny:Flags',"
        " 'tiny:receipts' (or 'default')"
    )


def test_the_weights_are_in_memory_once(reference: Path, folders: list[Path]):
    path = str(reference / "llava-mini")
    engine = load_engine(path, Limits(), adapters=folders)
    assert [info.name for info in engine.models()] == [
        "llava-mini",
        "llava-mini:Flags",
        "llava-mini:receipts",
    ]
    base, *tuned = engine._models.values()
    weights = {id(array) for array in flat(base.vision_tower).values()}
    weights |= {id(array) for array in flat(base.language_model).values()}
    for model in tuned:
        shared = [a for a in flat(model).values() if id(a) in weights]
        own = [a for a in flat(model).values() if id(a) not in weights]
        assert len(shared) == len(weights)
        assert sum(a.nbytes for a in own) < sum(a.nbytes for a in shared)
    mx.clear_cache()


@pytest.mark.parametrize("names", [("a/flags", "b/Flags"), ("latest",)])
def test_a_name_that_is_taken(names: tuple[str, ...], folders: list[Path]):
    places = [folders[0].parent / "names" / name for name in names]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folders[0])
    try:
        with pytest.raises(UsageError, match=f"the name {places[-1].name} is taken"):
            read_adapters(places)
    finally:
        for place in places:
            place.unlink()


def test_an_adapter_of_another_model_ends_the_start(folders: list[Path]):
    with pytest.raises(AdapterError, match="Flags: is an adapter of llava-mini"):
        load_engine("demo", Limits(), adapters=folders)
