"""The held-out questions, answered by the model as it is at that moment."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.processing.image_source import name_of
from fastvlm_mlx.train.answers import ask, questions
from fastvlm_mlx.train.data.rows import Row
from fastvlm_mlx.train.data.samples import Sample

if TYPE_CHECKING:
    import mlx.core as mx

    from fastvlm_mlx.fastvlm import FastVLM
    from fastvlm_mlx.train.data.features import FeatureStore

MOST = 200  # questions that are answered; the loss is that of all


class Exam:
    """Questions about held-out images, the same ones whenever they are asked.

    Args:
        model: answers them, with the adapter that it has at the moment.
        samples, rows: those held out, as they were read and as the model reads them.
        store: keeps the features of their images.
        gray: the features of the image that hides others.
    """

    def __init__(
        self,
        model: "FastVLM",
        samples: Sequence[Sample],
        rows: Sequence[Row],
        store: "FeatureStore",
        gray: "mx.array",
    ):
        self._model, self._store, self._gray = model, store, gray
        asked = questions(rows)
        turns = [(sample, answer) for sample in samples for answer in sample.answers]
        # Evenly spread, where there are too many.
        count = min(len(asked), MOST)
        chosen = [at * len(asked) // count for at in range(count)]
        self._asked = [asked[at] for at in chosen]
        self.expected = [turns[at][1] for at in chosen]
        self.images = [_image_name(turns[at][0]) for at in chosen]

    def answers(self, label: str, *, hidden: bool = False) -> list[str]:
        """The model's answers, with a progress bar that says `label`."""
        with terminal.progress(label, count=True) as update:
            return ask(
                self._model,
                self._asked,
                self._store,
                hidden=self._gray if hidden else None,
                on_progress=update,
            )


def _image_name(sample: Sample) -> str:
    if not sample.images:
        return "no image"
    return name_of(sample.images[0]).rpartition("/")[2]
