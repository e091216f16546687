"""Which settings take part in a round, and about how long the run will take.

Everything takes part in the first round. Later rounds leave out what failed, and the
settings of a peer that were more than `FAR` times slower than its best in every column
of speed: they are shown as measured once. Ours always take part.
"""

import statistics
from collections.abc import Sequence

from benchmarks.peers.measures import SPEEDS, medians
from benchmarks.peers.records import Records
from benchmarks.peers.settings import OURS, Setting

FAR = 1.5
# A turn in multiples of the machine's least time to the first token in float32, and the
# seconds that the starts of its processes take beside that. Measured on two cores of an
# AMD EPYC; only for an estimate before anything was measured.
_SHAPE = {OURS: (7.0, 10.0), "transformers": (7.0, 25.0), "mlx-vlm": (36.0, 25.0)}


def due(settings: Sequence[Setting], number: int, records: Records) -> list[Setting]:
    """The settings that take part in round `number`, counted from 0."""
    if number == 0:
        return list(settings)
    return [
        setting
        for setting in settings
        if setting.peer == OURS
        and not _failed(setting, records)
        or setting.variant != "installed"
        and not _failed(setting, records)
        and not left_behind(setting, settings, records)
    ]


def left_behind(
    setting: Setting, settings: Sequence[Setting], records: Records
) -> bool:
    """Whether it is far slower than the best of its peer in every column of speed."""
    alike = [each for each in settings if each.peer == setting.peer]
    found = {each.name: medians(records.of(each.name)[:1]) for each in alike}
    mine = found[setting.name]
    columns = [key for key in SPEEDS if key in mine]
    for key in columns:
        for value in (other[key] for other in found.values() if key in other):
            ratio = mine[key] / value if SPEEDS[key] else value / mine[key]
            if ratio > FAR:
                break
        else:
            return False
    return bool(columns)


def _failed(setting: Setting, records: Records) -> bool:
    return any("failed" in turn for turn in records.of(setting.name))


def estimate(
    setting: Setting, records: Records, least_ttft: float, limit: float
) -> float:
    """About how many seconds its next turn takes.

    Args:
        least_ttft: the machine's limit for a first token in float32, in seconds.
        limit: seconds that one answer may take.
    """
    if before := [turn["seconds"] for turn in records.of(setting.name)]:
        return statistics.median(before)
    factor, starts = _SHAPE[setting.peer]
    if _may_be_slow(setting):
        return starts + limit
    return starts + factor * least_ttft


def _may_be_slow(setting: Setting) -> bool:
    """Without the instructions for it, a 16-bit product is many times slower."""
    return setting.peer != OURS and setting.arithmetic == "bfloat16"


def remaining(
    settings: Sequence[Setting], rounds: int, records: Records
) -> list[Setting]:
    """The turns that are left, as far as is known: one entry for each.

    What may be slow is counted once until it was measured.
    """
    return [
        setting
        for number in range(rounds)
        for setting in due(settings, number, records)
        if not records.has(setting.name, number)
        and not (number and not records.of(setting.name) and _may_be_slow(setting))
    ]


def plan(
    settings: Sequence[Setting],
    rounds: int,
    records: Records,
    least_ttft: float,
    limit: float,
) -> float:
    """About how many seconds the turns that are left will take."""
    return sum(
        estimate(setting, records, least_ttft, limit)
        for setting in remaining(settings, rounds, records)
    )
