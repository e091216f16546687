"""Split: no image on both sides, at least eight held out, answers by their shares."""

from collections import Counter
from pathlib import Path

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.train.data.samples import Sample
from fastvlm_mlx.train.data.split import shared_images, split


def sample(image: str, answer: str = "x", *others: str) -> Sample:
    images = tuple(Path(f"/none/{name}") for name in (image, *others))
    return Sample(images, (("What?", answer),))


def test_sizes():
    for count, held in ((200, 20), (80, 8), (24, 8), (12, 4), (3, 1), (2, 0), (1, 0)):
        data = [sample(f"{n}.png", str(n)) for n in range(count)]
        train, held_out = split(data)
        assert (len(train), len(held_out)) == (count - held, held)
        assert sorted(train + held_out, key=data.index) == data
        assert train == sorted(train, key=data.index)
    assert split(data, share=0)[1] == []
    assert split([])[0] == []


def test_the_seed_alone_decides():
    data = [sample(f"{n}.png", str(n)) for n in range(100)]
    assert split(data, seed=1) == split(data, seed=1)
    assert split(data, seed=1) != split(data, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_classes_keep_their_shares(seed: int):
    data = [sample(f"{n}.png", f"{'abcde'[n % 5]}.") for n in range(100)]
    data += [sample(f"r{n}.png", "Rare") for n in range(10)]
    held_out = split(data, seed=seed)[1]
    counts = Counter(s.answers[0] for s in held_out)
    assert counts == {**dict.fromkeys(("a.", "b.", "c.", "d.", "e."), 2), "Rare": 1}


def test_texts_of_which_hardly_one_occurs_twice_are_taken_as_they_come():
    """By their shares the 20 that occur twice would be held out before all others."""
    data = [sample(f"{n}.png", str(n)) for n in range(60)]
    data += [sample(f"t{n}.png", f"twice {n // 2}") for n in range(40)]
    held_out = split(data)[1]
    twice = sum(each.answers[0].startswith("twice") for each in held_out)
    assert 0 < twice < len(held_out) == 10


@pytest.mark.parametrize("seed", range(5))
def test_an_image_is_on_one_side(seed: int):
    data = [sample(f"{n // 3}.png", str(n)) for n in range(90)]
    data += [sample("60.png", "x", "61.png"), sample("61.png", "y", "62.png")]
    train, held_out = split(data, seed=seed)
    assert 7 <= len(held_out) <= 9
    assert not {i for s in train for i in s.images} & {
        i for s in held_out for i in s.images
    }


def test_copies_are_one_image(folder: Path):
    for n in range(20):
        (folder / f"copy{n}.png").write_bytes((folder / "a.png").read_bytes())
    data = [Sample((folder / f"copy{n}.png",), (("?", str(n)),)) for n in range(20)]
    data += [Sample((folder / n,), (("?", n),)) for n in ("b.png", "c.png")]
    train, held_out = split(data)
    assert {s.images[0].name for s in held_out} <= {"b.png", "c.png"} and held_out  # type: ignore


def test_shared_images(folder: Path):
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    one = [Sample((folder / n,), (("?", n),)) for n in ("a.png", "b.png")]
    other = [Sample((folder / n,), (("?", n),)) for n in ("copy.png", "c.png")]
    assert shared_images(one, other) == 1 and shared_images(one, one) == 2
    assert shared_images(one, other[1:]) == 0


def test_one_image_cannot_be_split():
    data = [sample("a.png", str(n)) for n in range(50)]
    assert split(data) == (data, [])


def test_two_large_groups():
    data = [sample(f"{n % 2}.png", str(n)) for n in range(40)]
    train, held_out = split(data)
    assert len(train) == len(held_out) == 20


@pytest.mark.parametrize("share", [-0.1, 0.6, 2])
def test_share(share: float):
    with pytest.raises(OptionError, match="give a part from 0 to 0.5"):
        split([], share)
