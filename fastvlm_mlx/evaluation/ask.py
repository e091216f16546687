"""Asks a model the questions of a benchmark, several at once, always greedily.

While the model answers, a thread opens the images that come next. What cannot be asked,
as when an image cannot be opened, is an answer with an error.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from fastvlm_mlx.conversation.attachment import Attachment, attach
from fastvlm_mlx.conversation.batch import completions
from fastvlm_mlx.errors import CheckpointError, FastVLMError, ImageError
from fastvlm_mlx.evaluation.question import Question, prompt_of
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing import prefetch
from fastvlm_mlx.processing.image_options import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM

BATCH = 8
MAX_TOKENS = 128
# Batches whose questions are put in the order of their lengths: prompts of one length
# are answered together, and images are still close to where they were asked about.
_WINDOW = 16


@dataclass(frozen=True)
class Answer:
    """What was answered to a question, or why it could not be asked.

    - `text`: the answer; empty if there is an `error`.
    - `finish_reason`: "stop" or "length"; None if there is an `error`.
    - `error`: one line, or None.
    """

    question: Question
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None


def ask_questions(
    model: "FastVLM",
    questions: Sequence[Question],
    *,
    suffix: str = "",
    system: str | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    tiles: tuple[int, int] | None = None,
    max_tokens: int = MAX_TOKENS,
    batch: int = BATCH,
) -> Generator[Answer, None, None]:
    """The answers to `questions`, each as soon as it is known; the order may differ.

    An answer is the text that `model.ask` gives at temperature 0.

    Args:
        model: the model.
        questions: those to ask.
        suffix: what every prompt ends with; see `prompt_of`.
        system, fit, resolution, tiles, max_tokens: as for `model.stream`.
        batch: questions that are answered together.
    Raises:
        CheckpointError: the model has no language model, or no encoder.
        OptionError: an option cannot be honoured.
    """
    options = ImageOptions.of(model.config, fit, resolution, tiles)
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    if model.language_model is None:
        raise CheckpointError(
            "this checkpoint is an encoder alone and cannot answer; give a whole"
            " FastVLM checkpoint"
        )

    def opened(question: Question) -> list[Attachment] | FastVLMError:
        try:
            return [attach(model, one, options) for one in question.load_images()]
        except CheckpointError:
            raise
        except FastVLMError as fault:
            return fault
        # A disk that was taken away, or an image too large for this machine.
        except (OSError, MemoryError) as fault:
            reason = getattr(fault, "strerror", None) or type(fault).__name__
            return ImageError(f"an image cannot be read ({reason})")

    ordered = _by_length(model, questions, suffix, batch)
    begun: deque[Question] = deque()
    with closing(prefetch.made(ordered, opened, ahead=batch)) as made:

        def asked() -> Iterator[tuple[str, list[Attachment]] | FastVLMError]:
            for question, images in made:
                begun.append(question)
                if isinstance(images, FastVLMError):
                    yield images
                else:
                    yield prompt_of(question, suffix), images

        for each in completions(model, asked(), sampling, size=batch, system=system):
            question = begun.popleft()
            if isinstance(each, FastVLMError):
                yield failed(question, each)
            else:
                yield Answer(question, each.text, each.finish_reason)


def failed(question: Question, fault: object) -> Answer:
    """The answer that says why there is none."""
    return Answer(question, error=f"{question.origin or question.id}: {fault}")


def _by_length(
    model: "FastVLM", questions: Iterable[Question], suffix: str, batch: int
) -> Iterator[Question]:
    """The questions, those of one length beside each other within a window."""

    def length(question: Question) -> tuple[int, int]:
        tokens = model.tokenizer.encode(prompt_of(question, suffix))
        return len(question.images), len(tokens)

    rest = iter(questions)
    while window := list(islice(rest, batch * _WINDOW)):
        yield from sorted(window, key=length)
