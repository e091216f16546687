"""Several processes that train one model, as `mlx.launch` starts them.

Each has a share of every batch. Losses, counts and gradients are summed over all of
them before anything is divided, so the curve is that of one process with the whole
batch; every process then makes the same update. The first one writes the files.
"""

import json
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np


class Processes:
    """The processes of this run; one alone without `mlx.launch`.

    Attributes:
        rank: this process's number, from 0.
        count: of all processes.
    """

    def __init__(self) -> None:
        self._group = mx.distributed.init()
        self.rank, self.count = self._group.rank(), self._group.size()

    def mean(self, arrays: list[mx.array]) -> list[mx.array]:
        """The arrays, averaged over the processes and evaluated.

        They are a list: MLX takes the points in names for a tree.
        """
        averaged: Any = nn.average_gradients(arrays, self._group)
        mx.eval(averaged)
        return averaged

    def from_first(self, arrays: dict[str, mx.array], facts: Any) -> tuple[dict, Any]:
        """What the first process holds, for all: arrays by name, and plain values.

        The others give arrays of the same names and shapes.
        """
        if self.count == 1:
            return arrays, facts
        data = np.frombuffer(json.dumps(facts).encode(), np.uint8).astype(np.int32)
        length = int(np.asarray(self._first(mx.array(len(data)))))
        data = np.resize(data, length)
        text = bytes(np.asarray(self._first(mx.array(data))).astype(np.uint8))
        return {n: self._first(a) for n, a in arrays.items()}, json.loads(text)

    def _first(self, array: mx.array) -> mx.array:
        mine = array if self.rank == 0 else mx.zeros_like(array)
        mx.eval(result := mx.distributed.all_sum(mine, group=self._group))
        return result
