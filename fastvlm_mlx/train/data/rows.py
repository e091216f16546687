"""Rows: samples as token ids, with the positions whose next token is to be learned.

    system | user, image, question | answer, end | user, question | answer, end
                                     ~~~~~~~~~~~                   ~~~~~~~~~~~ learned

A row is built token by token, and a label is written down when its token is: nothing is
searched for afterwards, so no label can slip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastvlm_mlx.data.faults import Faults
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.chat_template import (
    ImagePlaceholder,
    Piece,
    encode_turn,
    end_token,
)
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.train.data.samples import Image, Sample


@dataclass(frozen=True, eq=False)
class Row:
    """One sample as the model reads it. The last token is a target only.

    Attributes:
        ids: (L,) int32, 0 where an image stands.
        feature_rows: (L,) int32, which row of the sample's features stands there; -1
            where a token does.
        positions: (A,) int32, ascending: where the next token is an answer's.
        targets: (A,) int32, these tokens, the end of each answer included.
        images: those of the sample; `image_tokens` are the features of each.
        origin: the sample's.
    """

    ids: np.ndarray
    feature_rows: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    images: tuple[Image, ...]
    image_tokens: tuple[int, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.ids)


class _Builder:
    """Appends tokens, the features of images, and labels."""

    def __init__(self, image_tokens: Sequence[int]):
        self.ids: list[int] = []
        self.feature_rows: list[int] = []
        self.positions: list[int] = []
        self.targets: list[int] = []
        self._starts = np.cumsum([0, *image_tokens]).tolist()

    def read(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, ImagePlaceholder):
                rows = range(self._starts[piece.index], self._starts[piece.index + 1])
                self.ids += [0] * len(rows)
                self.feature_rows += rows
            else:
                self.ids += piece
                self.feature_rows += [-1] * len(piece)

    def learn(self, tokens: Sequence[int]) -> None:
        first = len(self.ids)
        self.positions += range(first - 1, first - 1 + len(tokens))
        self.targets += tokens
        self.read([list(tokens)])


def build_row(
    sample: Sample,
    tokenizer: Tokenizer,
    image_tokens: Sequence[int],
    template: str = "qwen2",
) -> Row:
    """The row of one sample, in the chat format that answers are generated in.

    Args:
        sample: its images, questions and answers.
        tokenizer: the model's.
        image_tokens: positions that each image takes, in order.
        template: the model's chat template.
    Raises:
        CheckpointError: the tokenizer lacks a control token.
    """
    row = _Builder(image_tokens)
    end, shown = end_token(tokenizer, template), 0
    counts = sample.joining()
    for turn, (question, answer) in enumerate(sample.turns):
        pieces = encode_turn(
            tokenizer,
            question,
            range(shown, shown + counts[turn]),
            first=not turn,
            system=sample.system,
            template=template,
        )
        shown += counts[turn]
        if turn and isinstance(pieces[0], list):
            # A later turn begins with the end of the answer, which is there already.
            assert pieces[0][0] == end
            pieces[0] = pieces[0][1:]
        row.read(pieces)
        row.learn([*tokenizer.encode(answer), end])
    return Row(
        ids=np.array(row.ids[:-1], np.int32),
        feature_rows=np.array(row.feature_rows[:-1], np.int32),
        positions=np.array(row.positions, np.int32),
        targets=np.array(row.targets, np.int32),
        images=sample.images,
        image_tokens=tuple(image_tokens),
        origin=sample.origin,
    )


def build_rows(
    samples: Sequence[Sample],
    tokenizer: Tokenizer,
    count_tokens: Callable[[Image], int],
    context_size: int,
    template: str = "qwen2",
) -> list[Row]:
    """The rows of all samples, each checked to fit the context.

    `count_tokens` gives the positions that an image takes.

    Raises:
        DataError: samples are too long, or their images cannot be opened; the first
            few are named, the rest counted.
        CheckpointError: the tokenizer lacks a control token.
    """
    rows: list[Row] = []
    faults, unopened = Faults(), Faults()
    for sample in samples:
        try:
            tokens = [count_tokens(image) for image in sample.images]
        except ImageError as error:
            unopened.add(f"{sample.origin}: {str(error).rpartition('; ')[0]}")
            continue
        row = build_row(sample, tokenizer, tokens, template)
        if len(row) > context_size:
            images = f", {sum(tokens)} of them of images" if tokens else ""
            faults.add(
                f"{sample.origin}: {len(row)} tokens{images}, more than the context"
                f" of {context_size}"
            )
        rows.append(row)
    unopened.check("images that cannot be used", "replace {them} or take {them} out")
    faults.check(
        "samples that are too long",
        "shorten the text, give {them} fewer images or a lower resolution, or take"
        " {them} out",
    )
    return rows
