"""`caption` under `mlx.launch`: the file is that of one process, whatever happens."""

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.app import cli, terminal
from fastvlm_mlx.app.caption import run as caption_run
from fastvlm_mlx.app.caption.team import Team
from fastvlm_mlx.errors import FastVLMError
from tests.support.caption_lines import names
from tests.support.launched_captions import finished, grown, kill, launch
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]


def test_batches_are_dealt_out_in_turn():
    for count in (1, 2, 3, 5):
        for total in (0, 1, 2, 5, 6, 7, 24, 25):
            items = list(range(total))
            parts: list[list[int]] = []
            for rank in range(count):
                team = Team()
                team.rank, team.count = rank, count
                parts.append(team.share(items, 2))
            turns = [[part[at : at + 2] for at in range(0, total, 2)] for part in parts]
            dealt = [
                each
                for turn in zip(*turns, strict=True)
                for own in turn
                for each in own
            ]
            assert dealt == items


def test_two_processes_write_the_file_of_one(folder, tiny, tmp_path, run):
    (folder / "4.png").write_bytes(b"no image")
    options = (folder, "-m", tiny, "--max-tokens", "4", "--batch", "2")
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    assert run("caption", *options, "-o", alone).code == 1
    said = finished(launch(2, *options, "-o", shared))
    assert said.count("11 images captioned in ") == 1, said
    assert said.count("error: ") == 1 and "4.png: " in said
    assert "Traceback" not in said
    assert shared.read_bytes() == alone.read_bytes()


@pytest.fixture
def team(monkeypatch, quick, tiny, capsys):
    """Calls `caption` in several threads, each for a process; their exit codes."""

    def call(count: int, *arguments: object) -> tuple[list[int], str]:
        barrier, said = threading.Barrier(count), [None] * count
        ranks = iter(range(count))

        class Threads(Team):
            def __init__(self):
                super().__init__()
                self.rank, self.count = next(ranks), count

            def _exchanged(self, mine: Any) -> list[Any]:
                said[self.rank] = json.loads(json.dumps(mine))
                barrier.wait(60)
                heard = list(said)
                barrier.wait(60)
                return heard

        monkeypatch.setattr(caption_run, "Team", Threads)
        codes: list[int] = []

        def one() -> None:
            words = ["caption", "-m", tiny, *map(str, arguments)]
            try:
                codes.append(cli.app(words, standalone_mode=False) or 0)
            except FastVLMError as error:
                terminal.note(f"error: {error}")
                codes.append(1)

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return sorted(codes), capsys.readouterr().err

    return call


@pytest.mark.parametrize("count", [2, 7])
def test_any_number_goes_on_with_the_file_of_one(folder, quick, team, tmp_path, count):
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    quick(folder, "-o", alone, "--batch", "2")
    whole = alone.read_bytes()
    for cut in (0, len(whole) // 2):
        shared.write_bytes(whole[:cut])
        codes, err = team(count, folder, "-o", shared, "--batch", "2")
        assert codes == [0] * count and err.count("captioned in") == 1
        assert shared.read_bytes() == whole
    codes, err = team(count, folder, "-o", shared)
    assert codes == [0] * count
    assert err == "12 of 12 images have captions already\n"


def test_what_the_first_one_refuses_is_said_once(folder, quick, team, tmp_path):
    out = tmp_path / "a.jsonl"
    quick(folder, "-o", out)
    codes, err = team(3, folder, "-o", out, "-p", "What else?")
    assert codes == [0, 0, 1]
    assert err.count("error: ") == 1 and "holds captions of prompt" in err
    codes, err = team(2, tmp_path / "none", "-o", out)
    assert codes == [0, 1] and err.endswith("none: no such file or folder\n")
    codes, err = team(2, folder, "-o", out, "-p", "")
    assert codes == [0, 1] and err.count("error: ") == 1


def test_texts_beside_images(folder, team):
    """A text of the second process that has no place fails alone, as in one."""
    (folder / "3.txt").mkdir()
    (folder / "9.txt").symlink_to(folder / "9.png")
    before = (folder / "9.png").read_bytes()
    codes, err = team(2, folder, "--format", "txt", "--batch", "2")
    assert codes == [0, 1]
    assert "10 images captioned in " in err and "2 failed:" in err
    assert "3.txt: is no file" in err and "9.txt: is the image itself" in err
    assert (folder / "9.png").read_bytes() == before
    assert len([path for path in folder.glob("*.txt") if path.is_file()]) == 11


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment(folder, tmp_path, seed):
    """Killed five times and gone on with by any number of processes."""
    for number in range(13, 61):
        make_image(number).save(folder / f"{number}.png")
    options = (folder, "-m", "demo", "--max-tokens", "8", "--batch", "2")
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    finished(launch(1, *options, "-o", alone))
    whole = alone.read_bytes()
    moments, kills = random.Random(seed), 0
    sizes: list[int] = []
    while kills < 5:
        process = launch(moments.choice([1, 2, 2, 3]), *options, "-o", shared)
        size = shared.stat().st_size if shared.exists() else 0
        # Some die while they start, most soon after they have written something.
        if moments.random() < 0.8:
            grown(shared, process, size, 120)
            time.sleep(moments.uniform(0, 0.3))
        else:
            time.sleep(moments.uniform(0.5, 3))
        if process.poll() is None:
            kill(process, moments.choice([0, 1, 2, None]))
            kills += 1
        else:
            finished(process)
        there = shared.read_bytes() if shared.exists() else b""
        sizes.append(len(there))
        assert whole.startswith(there[: there.rfind(b"\n") + 1])
        if there == whole:
            shared.unlink()
    finished(launch(moments.choice([1, 2, 3]), *options, "-o", shared))
    assert shared.read_bytes() == whole
    assert len(names(Path(shared))) == 60
    assert len({size for size in sizes if 0 < size < len(whole)}) >= 2
