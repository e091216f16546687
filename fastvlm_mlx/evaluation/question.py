"""Questions with their images and accepted answers, and the benchmarks they make up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

from fastvlm_mlx.data.image_reference import Image
from fastvlm_mlx.data.stored_image import StoredImage

# The two suffixes of LLaVA-1.5 (docs/Evaluation.md), which FastVLM was trained with.
SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Question:
    """One question about one or more images.

    Attributes:
        id: unique in its benchmark, and the same each time the data is read.
        images: files, http(s) addresses, bytes, or images within a data file; see
            `load_images`. Never empty.
        text: as it is asked, hint and lettered options included, the suffix not.
        answers: those accepted, or one for each annotator; of options the letter.
        category: the table of results has a row for each; may be empty.
        choices: the texts of the options, A first; empty if it is an open question.
        origin: "file:line" or "file: question 17", for messages.
        suffix: what this one question is asked with in place of its benchmark's suffix.
    """

    id: str
    images: tuple[Image | StoredImage, ...]
    text: str
    answers: tuple[str, ...]
    category: str = ""
    choices: tuple[str, ...] = ()
    origin: str = ""
    suffix: str | None = None

    def load_images(self) -> tuple[Image, ...]:
        """The images as `model.ask` takes them; those in a data file are read.

        Raises:
            ImageError: one lies in a data file and cannot be read.
        """
        return tuple(
            image.read() if isinstance(image, StoredImage) else image
            for image in self.images
        )


@dataclass(frozen=True)
class Benchmark:
    """Questions that are scored together.

    Attributes:
        name: such as "textvqa"; published figures go by it.
        label: such as "TextVQA val", for the reader.
        questions: in the order of the data; at least one.
        metric: a name in `metrics.METRICS`.
        suffix: what is published to be asked at the end of each prompt; may be empty.
        notes: lines for the user: what was left out, and why.
    """

    name: str
    label: str
    questions: tuple[Question, ...]
    metric: str
    suffix: str = ""
    notes: tuple[str, ...] = ()

    def with_suffix(self, suffix: str) -> "Benchmark":
        """The same with another suffix for every question."""
        questions = tuple(replace(each, suffix=None) for each in self.questions)
        return replace(self, questions=questions, suffix=suffix)


def prompt_of(question: Question, suffix: str) -> str:
    """What is asked: the text, and on a line of its own the suffix if there is one.

    `suffix` is the benchmark's; a suffix of the question's own goes before it.
    """
    suffix = suffix if question.suffix is None else question.suffix
    return f"{question.text}\n{suffix}" if suffix else question.text


def with_options(text: str, choices: Sequence[str]) -> str:
    """The text with a line "A. option" for each choice, as LLaVA writes them."""
    lettered = zip(ascii_uppercase, choices, strict=False)
    lines = (f"{letter}. {each}" for letter, each in lettered)
    return "\n".join([text, *lines])
