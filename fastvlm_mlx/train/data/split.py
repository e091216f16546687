"""Splits samples into those to learn from and those held out, by image."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fastvlm_mlx.data.image_identity import identities
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.train.data.samples import Sample

LEAST = 8  # held out, where there are enough


def split(
    samples: Sequence[Sample], share: float = 0.1, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """(to learn from, held out), each in the order given.

    About `share` of the samples are held out, at least 8 of them if that is at most a
    third. All samples of an image, copies of it included, are on one side; so fewer may
    be held out, or none, where few images have many samples. Where answers are few, as
    with classes, each is held out as often as its share.

    Raises:
        OptionError: `share` is not from 0 to 0.5.
    """
    if not 0 <= share <= 0.5:
        raise OptionError(f"share {share}: give a part from 0 to 0.5, such as 0.1")
    wanted = round(share * len(samples))
    if share:
        wanted = max(wanted, min(LEAST, len(samples) // 3))
    chosen: set[int] = set()
    groups = _in_turn(_groups(samples), samples, seed)
    for group in groups:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    if wanted and not chosen:
        smallest = min(groups, key=len)
        if len(smallest) <= len(samples) // 2:
            chosen.update(smallest)
    return (
        [sample for at, sample in enumerate(samples) if at not in chosen],
        [sample for at, sample in enumerate(samples) if at in chosen],
    )


def shared_images(one: Sequence[Sample], other: Sequence[Sample]) -> int:
    """How many images, copies counted once, are in both."""
    same = identities(i for sample in (*one, *other) for i in sample.images)
    first, second = (
        {same[image] for sample in samples for image in sample.images}
        for samples in (one, other)
    )
    return len(first & second)


def _groups(samples: Sequence[Sample]) -> list[list[int]]:
    """The indices of samples that belong together, as they share images."""
    same = identities(image for sample in samples for image in sample.images)
    parents = list(range(len(samples)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    first: dict[str, int] = {}
    for at, sample in enumerate(samples):
        for image in sample.images:
            parents[root(at)] = root(first.setdefault(same[image], at))
    groups: dict[int, list[int]] = {}
    for at in range(len(samples)):
        groups.setdefault(root(at), []).append(at)
    return list(groups.values())


def _in_turn(
    groups: list[list[int]], samples: Sequence[Sample], seed: int
) -> list[list[int]]:
    """Groups in an order of which each beginning has all answers by their shares."""
    random = np.random.default_rng(seed)
    shuffled = [groups[at] for at in random.permutation(len(groups))]
    answers = [tuple(_plain(a) for a in samples[g[0]].answers) for g in shuffled]
    sizes = Counter(answers)
    if len(sizes) > len(groups) // 2:  # hardly one answer occurs twice
        return shuffled
    seen: Counter[tuple[str, ...]] = Counter()
    places: list[float] = []
    for answer in answers:
        places.append((seen[answer] + 0.5) / sizes[answer])
        seen[answer] += 1
    order = sorted(range(len(shuffled)), key=lambda at: places[at])  # stable
    return [shuffled[at] for at in order]


def _plain(answer: str) -> str:
    """An answer without what does not make it another one."""
    return " ".join(answer.casefold().split()).rstrip(".!")
