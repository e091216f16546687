"""Several processes that caption one list of images, as `mlx.launch` starts them.

Batches are dealt out in turn. After each round the processes exchange what they made,
and the first one writes it in the order of the images. So the file is what one process
writes, at any moment, and nothing else is kept of an unfinished run.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

# Those of mlx.launch, whatever its backend, and of the launchers of MPI.
_RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


class Team:
    """The processes of this run; one alone where no launcher set more up.

    As a context, it lets the others go if the first one found nothing for them to do.

    Attributes:
        rank: this process's number, from 0.
        count: of all processes.
    """

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self._group: Any = None
        self._told = False
        if any(name in os.environ for name in _RANKS):
            import mlx.core as mx

            self._group = mx.distributed.init()
            self.rank, self.count = self._group.rank(), self._group.size()

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        if self.rank == 0 and not self._told:
            self.tell(None)

    def tell(self, plan: Any) -> Any:
        """The plan of the first process, for all; the others give None."""
        self._told = True
        return self._exchanged(plan)[0]

    def share(self, items: Sequence[Item], size: int) -> list[Item]:
        """What this process is to do: its turns of `size` items."""
        step = size * self.count
        starts = range(self.rank * size, len(items), step)
        return [item for start in starts for item in items[start : start + size]]

    def rounds(
        self, batches: Iterable[list[dict[str, Any]]], total: int, size: int
    ) -> Iterator[list[dict[str, Any]]]:
        """What all processes made of their batches, a round at a time and in order.

        Args:
            batches: what this one makes of its share, batch by batch; plain values.
            total: the number of items that all have.
            size: that of a batch.
        """
        own = iter(batches)
        for _ in range(0, total, size * self.count):
            made = self._exchanged(next(own, []))
            yield [each for part in made for each in part]

    def _exchanged(self, mine: Any) -> list[Any]:
        """What every process gives, in the order of their ranks."""
        if self.count == 1:
            return [mine]
        import mlx.core as mx
        import numpy as np

        data = np.frombuffer(json.dumps(mine).encode(), np.uint8)
        lengths = np.asarray(self._gathered(mx.array([len(data)], mx.int32)))
        padded = np.zeros((1, int(lengths.max())), np.uint8)
        padded[0, : len(data)] = data
        rows = np.asarray(self._gathered(mx.array(padded)))
        return [
            json.loads(bytes(row[:length]))
            for row, length in zip(rows, lengths.tolist(), strict=True)
        ]

    def _gathered(self, array: Any) -> Any:
        import mlx.core as mx

        mx.eval(result := mx.distributed.all_gather(array, group=self._group))
        return result
