"""`BatchDecoder`: answers decoded together, which join and leave between two steps.

On a GPU the next tokens are computed while the last ones are read: a step is handed to
MLX before the tokens it continues are looked at. So a row's KV cache runs one position
ahead of what was read. On a CPU that would show each token a step later.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from fastvlm_mlx import device
from fastvlm_mlx.generation import decode
from fastvlm_mlx.generation.decode import AnswerReader, KVCache, RowCache
from fastvlm_mlx.generation.logprobs import LogprobRecorder, TokenLogprob
from fastvlm_mlx.generation.sampling import Constraint, Sampling, make_sampler

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

# Bytes of KV cache that the rows of a decoder may come to; see `BatchDecoder.is_full`.
KV_LIMIT = 1 << 30
# Few answers are longer: room for more is not kept free.
_EXPECTED_TOKENS = 2048


@dataclass(frozen=True)
class Step:
    """What one step adds to an answer.

    - `text`: may be empty.
    - `token`: its id; None if it only ends the answer, as a stop token does.
    - `tokens`: how many the answer has.
    - `logprobs`: those that can be shown now; None unless asked for.
    - `finish_reason`: None, or in the last step "stop" or "length".
    """

    text: str
    token: int | None
    tokens: int
    logprobs: tuple[TokenLogprob, ...] | None
    finish_reason: str | None


class Row:
    """One answer: its KV cache, how its tokens are chosen, and what becomes of them.

    `cache` holds what comes before its prompt, and grows in place.
    """

    def __init__(
        self,
        model: "FastVLMModel",
        cache: KVCache,
        sampling: Sampling,
        constraint: Constraint | None = None,
        top_logprobs: int | None = None,
    ):
        self.reader = AnswerReader(model.tokenizer, sampling, constraint)
        self.cache = RowCache(cache)
        self.left = sampling.max_tokens  # tokens that are still to be chosen
        self.next: mx.array | None = None  # the id that was chosen last, (1,)
        self.is_read = False  # whether that was read
        self.steps: deque[Step] = deque()
        self.error: BaseException | None = None
        self.recorder: LogprobRecorder | None = None
        self.choose = make_sampler(sampling, constraint)
        # Whether one argmax can choose for all such rows.
        self.is_plain = (
            sampling.is_greedy
            and sampling.repetition_penalty in (None, 1)
            and constraint is None
            and top_logprobs is None
        )
        if top_logprobs is not None:
            recorder = LogprobRecorder(model.tokenizer, top_logprobs, [constraint])
            self.recorder = recorder
            self.choose = recorder.watch(self.choose)

    def push(self, token: int):
        """Takes the id of a step that was read."""
        known, listed = len(self.reader.tokens), len(self.reader.logprobs)
        text = self.reader.push(
            token, self.recorder.pop()[0] if self.recorder else None
        )
        tokens = len(self.reader.tokens)
        self.steps.append(
            Step(
                text,
                token if tokens > known else None,
                tokens,
                tuple(self.reader.logprobs[listed:]) if self.recorder else None,
                self.reader.finish_reason,
            )
        )


class BatchDecoder:
    """Decodes the answers of any number of rows together.

    `prefill` a row's prompt and `join` it with what that returns, take its steps with
    `next` until one has a finish reason, and `remove` it then or earlier. What is read
    for one row with `next` is a step of all rows: whoever takes the steps of several
    takes them in turn. Only for one thread at a time.
    """

    def __init__(self, model: "FastVLMModel", *, kv_limit: int = KV_LIMIT):
        self._model = model
        self._kv_limit = kv_limit
        self._rows: list[Row] = []
        self._steps = 0

    def __len__(self) -> int:
        return len(self._rows)

    def is_full(self, prompt: int, max_tokens: int) -> bool:
        """Whether another answer's KV cache would take too much memory now.

        Args:
            prompt: positions of its prompt.
            max_tokens: of the answer.
        """
        if not self._rows:
            return False
        layers = self._rows[0].cache.layers
        each = sum(layer.nbytes for layer in layers) / layers[0].keys.shape[2]
        wanted = prompt + min(max_tokens, _EXPECTED_TOKENS)
        for row in self._rows:
            wanted += row.cache.cached + min(row.left, _EXPECTED_TOKENS)
        return wanted * each > self._kv_limit

    def prefill(
        self, rows: Sequence[Row], embeddings: mx.array
    ) -> Generator[None, None, mx.array]:
        """Takes prompts of one length in, (B, L, hidden); yields between two parts.

        Returns:
            The logits after them, (B, vocab), not yet evaluated, for `join`.
        """
        caches = [row.cache for row in rows]
        return decode.prefill(self._model, embeddings, caches)

    def join(self, rows: Sequence[Row], logits: mx.array):
        """Lets rows take part in the steps from now on."""
        _choose(rows, logits)
        self._rows += [row for row in rows if row.error is None]

    def next(self, row: Row) -> Step:
        """The next step of `row`; all rows make one if it has none in store.

        Raises:
            OptionError: its constraint cannot be followed; the other rows go on.
        """
        while not row.steps:
            if row.error is not None:
                raise row.error
            self._step()
        return row.steps.popleft()

    def remove(self, row: Row, length: int):
        """Ends a row; its cache keeps its first `length` positions at most."""
        if row in self._rows:
            self._rows.remove(row)
        row.cache.rewind(length)

    def _step(self):
        rows = self._rows
        try:
            self._take_in([row for row in rows if row.is_read])
            current = [cast(mx.array, row.next) for row in rows]
            if device.on_gpu():
                self._take_in(rows)
            for row, token in zip(rows, current, strict=True):
                if row.error is None:
                    row.push(cast(int, token.item()))
                    row.is_read = row.next is token
        except BaseException as error:
            for row in rows:
                row.error = row.error or error
            self._rows = []
            raise
        self._rows = [
            row
            for row in rows
            if row.error is None and row.reader.finish_reason is None
        ]
        self._steps += 1
        if self._steps % decode.CLEAR_CACHE_EVERY == 0:
            mx.clear_cache()

    def _take_in(self, rows: Sequence[Row]):
        """Chooses what follows the last id of each row."""
        if going := [row for row in rows if row.left]:
            ids = [cast(mx.array, row.next) for row in going]
            # (B,) -> (B, 1, hidden), from ids that may not be computed yet
            together = mx.concatenate(ids) if len(ids) > 1 else ids[0]
            embeddings = self._model.embed_tokens(together[:, None])
            caches = [row.cache for row in going]
            _choose(going, decode.forward(self._model, embeddings, caches))


def _choose(rows: Sequence[Row], logits: mx.array):
    """Chooses the next id of each row from `logits`, (B, vocab)."""
    largest = mx.argmax(logits, axis=-1) if any(row.is_plain for row in rows) else None
    for at, row in enumerate(rows):
        try:
            if row.is_plain and largest is not None:
                row.next = largest[at : at + 1]
            else:
                row.next = row.choose(logits[at : at + 1])
            row.is_read = False
            row.left -= 1
        except Exception as error:  # of one answer's constraint
            row.error = error
    # Nothing lazy may be left behind for another thread: see `make_sampler`.
    mx.async_eval([row.next for row in rows if row.next is not None])
