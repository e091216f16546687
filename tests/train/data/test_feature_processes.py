"""Processes that encode at once, that are interrupted or killed, or fill the disk."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.train.data.features import FeatureStore
from tests.support.mock_model import MockModel, make_image
from tests.support.paths import ROOT
from tests.support.train_features import files, paths, samples


def test_processes_share_the_work(
    model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    data = samples(*paths(folder))
    stores = [FeatureStore(tmp_path / "kept", model) for _ in range(2)]
    order: list[Path] = []

    def second(done: int, total: int) -> None:
        if not order:  # while the first is at its first image
            order.append(folder)
            stores[1].prepare(data, rank=1, ranks=2)

    told: list[int] = []

    def first(done: int, total: int) -> None:
        told.append(done)
        second(done, total)

    stores[0].prepare(data, first, rank=0, ranks=2)
    assert told == [1, 2, 3, 4]
    # The one that was opened ahead is encoded twice at most.
    assert 4 <= len(encoded) <= 5 and len(files(stores[0])) == 4


def test_each_process_begins_elsewhere(model: MockModel, folder: Path, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for rank, begun in ((0, "a.png"), (1, "c.png")):
        store = FeatureStore(tmp_path / str(rank), model)
        with pytest.raises(KeyboardInterrupt):
            store.prepare(samples(*paths(folder)), stop, rank=rank, ranks=2)
        assert len(files(store)) == 1 and store.read(folder / begun).shape == (4, 32)


def _python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> Any:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PREPARE = """
    import sys, time
    from pathlib import Path
    from fastvlm_mlx.errors import FastVLMError
    from fastvlm_mlx.train.data.features import FeatureStore
    from fastvlm_mlx.train.data.samples import Sample
    from tests.support.mock_model import MockModel
    store = FeatureStore(sys.argv[1], MockModel())
    images = sorted(Path(sys.argv[2]).rglob("*.png"))
    data = [Sample((i,), (("?", "x"),), origin=i.name) for i in images]
    def tell(done, total):
        print(done, flush=True)
        if PAUSE and done == 2:
            time.sleep(60)
    try:
        store.prepare(data, tell)
    except FastVLMError as error:
        print(error)
"""


def test_killed(model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]):
    code = f"PAUSE = True\n{textwrap.dedent(PREPARE)}"
    with _python(code, tmp_path / "kept", folder) as process:
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None, process.stderr.read()
        process.kill()
        process.communicate(timeout=30)
    store = FeatureStore(tmp_path / "kept", model)
    assert len(files(store)) == 2
    assert store.prepare(samples(*paths(folder))) == 2 and len(encoded) == 2
    assert len(files(store)) == 4 and not list(store.folder.rglob(".*"))


def test_interrupted(
    model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    store = FeatureStore(tmp_path / "kept", model)
    with pytest.raises(KeyboardInterrupt):
        store.prepare(samples(*paths(folder)), interrupt)
    assert len(encoded) == len(files(store)) == 3
    assert store.prepare(samples(*paths(folder))) == 1


@pytest.fixture
def small_disk() -> Iterator[tuple[str, ...]]:
    prefix = ("unshare", "--mount", "--map-root-user")
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("needs Linux user namespaces to mount a small tmpfs")
    yield (*prefix, "sh", "-c", 'mount -t tmpfs -o size=32k none "$0" && exec "$@"')


def test_a_full_disk(small_disk: tuple[str, ...], folder: Path, tmp_path: Path):
    """The disk fills while features are kept: one line; those that fitted stay."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for seed in range(10):
        make_image(50 + seed).save(folder / f"e{seed}.png")
    code = f"""
import fastvlm_mlx.files.disk_space as d
d.free_space = lambda folder: 1 << 40
import os
PAUSE = False
{textwrap.dedent(PREPARE)}
kept = [f for f in store.folder.rglob("*.safetensors")]
partial = [f for f in store.folder.rglob(".*")]
print(len(kept), len(partial))
"""
    with _python(code, disk, folder, prefix=(*small_disk, str(disk))) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    *done, message, counts = out.splitlines()
    print(message)
    assert "features of images: does not fit on its disk" in message
    assert "free some space or" in message and message.count("\n") == 0
    assert counts == f"{len(done)} 0" and len(done) > 1
