"""Collects the questions of a benchmark, and all that is wrong with them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvlm_mlx.data.faults import BadRow, Faults
from fastvlm_mlx.data.image_reference import Image, ImageFinder
from fastvlm_mlx.data.located import is_text
from fastvlm_mlx.data.stored_image import StoredImage
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.question import Benchmark, Question, with_options

_UP = 3  # folders above a data file where its images may lie


def image_folders(
    file: Path, image_folder: Path | None, names: Sequence[str] = ()
) -> list[Path]:
    """Where images may lie: folders called `names` near the data file, or its own.

    Args:
        file: the data file.
        image_folder: the user's; then only this one, and folders of these names in it.
        names: such as "train_images", in the order of preference.
    """
    if image_folder is not None:
        roots = [image_folder.absolute()]
    else:
        roots = [file.absolute().parent, *file.absolute().parent.parents][: 1 + _UP]
    named = [root / name for root in roots for name in names]
    return [place for place in named if place.is_dir()] + [roots[0]]


class Gathering:
    """Questions so far; a fault is kept and told with the others at the end."""

    def __init__(self, path: Path, folders: Sequence[Path], images_in: str = ""):
        """
        Args:
            path: what is read, for messages.
            folders: where images may lie.
            images_in: the folder that the download has them in; empty for own data.
        """
        self.path = path
        self.finder = ImageFinder(folders)
        self.questions: list[Question] = []
        self.faults = Faults()
        self._images_in = images_in
        self._missing = 0
        self._left_out: Counter[str] = Counter()
        self._ids: set[str] = set()

    def leave_out(self, why: str) -> None:
        """Counts a question that is not asked; `why` is such as "no answer"."""
        self._left_out[why] += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each kind of question that is left out."""
        return tuple(
            f"{n} question{'s are' if n > 1 else ' is'} left out: {why}"
            for why, n in self._left_out.items()
        )

    def add(
        self,
        id: Any,
        images: Any,
        text: Any,
        answers: Any,
        *,
        origin: str,
        category: Any = "",
        choices: Any = (),
        suffix: str | None = None,
    ) -> None:
        """Adds a question, or the fault that it has.

        Args:
            id: its name; must be unlike those before.
            images: a name, or a list of names and of images that are known already; a
                tuple in it has names of which the first that is there counts.
            text: the question alone; options are written below it.
            answers: one answer or a list; of options the letter.
            origin: where it stands, for messages.
            category: a text, or nothing.
            choices: the texts of the options.
            suffix: what it is asked with in place of the benchmark's suffix.
        """
        try:
            options = _texts(choices, "a choice")
            asked = _text(text, "the question")
            question = Question(
                id=_text(id, "the id"),
                images=self._images(images),
                text=with_options(asked, options) if options else asked,
                answers=_answers(answers, options),
                category="" if _is_nothing(category) else _text(category, "category"),
                choices=options,
                origin=origin,
                suffix=suffix,
            )
            if question.id in self._ids:
                raise BadRow(f"a second question has the id {question.id}")
        except BadRow as fault:
            self.faults.add(f"{origin}: {fault}")
            return
        self._ids.add(question.id)
        self.questions.append(question)

    def _images(self, named: Any) -> tuple[Image | StoredImage, ...]:
        each = named if isinstance(named, list) else [named]
        if not each or any(_is_nothing(name) for name in each):
            raise BadRow("has no image")
        return tuple(
            name if isinstance(name, StoredImage) else self._find(name) for name in each
        )

    def _find(self, named: Any) -> Image:
        faults: list[BadRow] = []
        for name in named if isinstance(named, tuple) else (named,):
            try:
                return self.finder.find(name)
            except BadRow as fault:
                faults.append(fault)
        self._missing += 1
        raise faults[0]

    def finish(
        self,
        name: str,
        label: str,
        metric: str,
        suffix: str = "",
        way_out: str = "correct {them} or take {them} out",
    ) -> Benchmark:
        """All of it.

        Raises:
            DataError: there were faults, or no question is left.
        """
        if self._missing and self._images_in:
            way_out = (
                f"unpack the images into {self._images_in} beside it, or name their"
                " folder with --image-folder"
            )
        self.faults.check("bad questions", way_out)
        if not self.questions:
            why = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(
                f"{self.path}: no question to ask{why}; give a file that has some"
            )
        return Benchmark(name, label, tuple(self.questions), metric, suffix, self.notes)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: Any, what: str) -> str:
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    if not isinstance(value, str):
        raise BadRow(f"{what} is missing" if value is None else f"{what} is no text")
    if not is_text(value):
        raise BadRow(f"{what} is not UTF-8; save the file as UTF-8")
    if not value.strip():
        raise BadRow(f"{what} is empty")
    return value.strip()


def _texts(values: Any, what: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple):
        raise BadRow(f"{what} must be in a list")
    return tuple(_text(value, what) for value in values)


def _answers(values: Any, options: Sequence[str]) -> tuple[str, ...]:
    values = values if isinstance(values, list | tuple) else [values]
    answers = _texts(values, "the answer")
    if not answers:
        raise BadRow("the answer is missing")
    if options:
        letters = [chr(ord("A") + index) for index in range(len(options))]
        for answer in answers:
            if answer not in letters:
                raise BadRow(
                    f"the answer {answer[:40]} is none of the letters A to"
                    f" {letters[-1]} of its choices"
                )
    return answers
