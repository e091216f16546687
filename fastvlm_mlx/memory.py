"""What a model has worked out and may need again: pictures and prompt beginnings.

Each loaded model has one `Memory`, shared by its conversations: a second question
about a picture, also from somebody else, encodes nothing.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLM

LIMIT = 256 << 20  # bytes; one picture of the 0.5B model takes 1 MB


class Memory:
    """Arrays by key, at most `limit` bytes of them; the least recently used go first.

    Safe to use from several threads. Change a model's weights and `clear` it.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self.nbytes = 0
        self._arrays: OrderedDict[Hashable, list[mx.array]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> list[mx.array] | None:
        """What was put under `key`, unless it had to make room."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Hashable, arrays: Sequence[mx.array]):
        """Keeps `arrays`, whose computing begins now.

        Since MLX 0.31.2 only the thread that described an array can start it, while
        any thread may wait for it.
        """
        mx.async_eval(*arrays)
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key in self._arrays or size > self.limit:
                return
            self._arrays[key] = list(arrays)
            self.nbytes += size
            while self.nbytes > self.limit:
                _, oldest = self._arrays.popitem(last=False)
                self.nbytes -= sum(array.nbytes for array in oldest)

    def clear(self):
        """Forgets everything."""
        with self._lock:
            self._arrays.clear()
            self.nbytes = 0

    def __len__(self) -> int:
        return len(self._arrays)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Memory":
        # A copied model may get other weights; and a lock cannot be copied.
        return Memory(self.limit)


def memory_of(model: "FastVLM") -> Memory:
    """The memory of `model`, made on first use."""
    # setdefault is one step: two threads cannot make two.
    return vars(model).setdefault("memory", Memory())
