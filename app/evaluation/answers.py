"""The answers of one setup to a benchmark, in a file of JSON lines if one was asked
for: its lines say what is done, so that the same command goes on."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import session
from fastvlm_mlx.app.evaluation.setup import Setup
from fastvlm_mlx.app.lines.form import Contents, KeyedJSONLines
from fastvlm_mlx.app.lines.output import LineFile
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.ask import Answer
from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.evaluation.question import Benchmark, Question, prompt_of

FORM = KeyedJSONLines("id")


@dataclass(frozen=True)
class Line:
    """One answer's line. `labels` are those of the file, the same in each line."""

    answer: Answer
    prompt: str
    score: float
    labels: Mapping[str, str]

    def fields(self) -> dict[str, Any]:
        """What the line says, in its order; what is not known is left out."""
        question = self.answer.question
        failed = self.answer.error is not None
        return {
            "id": question.id,
            **({"category": question.category} if question.category else {}),
            "prompt": self.prompt,
            **({} if failed else {"answer": self.answer.text}),
            "expected": list(question.answers),
            "score": self.score,
            **({} if failed else {"finish_reason": self.answer.finish_reason}),
            **({"error": self.answer.error} if failed else {}),
            **self.labels,
        }


class Answers:
    """The answers of `setup` to `questions` of `benchmark`.

    - `known`: answer by the id of its question.

    Args:
        out: the file; None: they are not kept.
        overwrite: begins anew instead of going on.
    Raises:
        OptionError: `out` cannot be written, or holds other things or other answers.
    """

    def __init__(
        self,
        setup: Setup,
        benchmark: Benchmark,
        questions: Sequence[Question],
        out: Path | None,
        *,
        overwrite: bool = False,
    ):
        self.setup, self.known = setup, dict[str, Answer]()
        self._suffix, self._mark = benchmark.suffix, METRICS[benchmark.metric].mark
        self._labels = labels_of(setup, benchmark)
        self._questions = questions
        self._file: LineFile | None = None
        if out is None:
            return
        contents = Contents("answer", self._labels, lambda each: each["id"], (FORM,))
        self._file = LineFile(out, FORM, contents, overwrite=overwrite)
        try:
            kept = _of(benchmark, out, self._file.kept())
            self.known = matched(out, kept, questions, benchmark.suffix)
        except BaseException:
            self.close()
            raise

    @property
    def is_kept(self) -> bool:
        """Whether answers go to a file."""
        return self._file is not None

    @property
    def todo(self) -> list[Question]:
        """The questions without an answer, in order."""
        return [each for each in self._questions if each.id not in self.known]

    def begin(self) -> None:
        """Prepares the file; until now nothing was written."""
        if self._file is not None:
            self._file.begin()

    def add(self, answer: Answer) -> None:
        """Keeps an answer.

        Raises:
            OptionError: it cannot be written.
        """
        if self._file is not None:
            prompt = prompt_of(answer.question, self._suffix)
            line = Line(answer, prompt, marked(self._mark, answer), self._labels)
            self._file.write(line)
        self.known[answer.question.id] = answer

    def close(self) -> None:
        """Frees the file."""
        if self._file is not None:
            self._file.close()


def marked(mark: Any, answer: Answer) -> float:
    """The mark of an answer, 0 to 1; one that failed is wrong."""
    return 0.0 if answer.error is not None else mark(answer.question, answer.text)


def labels_of(setup: Setup, benchmark: Benchmark) -> dict[str, str]:
    """What all lines of a file share: answers of anything else do not go into it."""
    return {
        "model": setup.name,
        "settings": setup.settings,
        "benchmark": benchmark.label,
        "metric": benchmark.metric,
        "suffix": benchmark.suffix,
    }


def matched(
    name: str | Path,
    lines: Iterator[dict[str, Any]],
    questions: Sequence[Question],
    suffix: str,
) -> dict[str, Answer]:
    """The answers in `lines` to any of `questions`, by id.

    Raises:
        OptionError: a line has the id of a question and answers another one.
    """
    by_id = {question.id: question for question in questions}
    found: dict[str, Answer] = {}
    for fields in lines:
        question = by_id.get(fields["id"])
        if question is None:
            continue  # of a larger sample
        if fields.get("prompt") != prompt_of(question, suffix):
            raise OptionError(
                f"{name}: its answer {question.id} is to another question than"
                f" {question.origin or 'this one'}; name another file, or use"
                " --overwrite to begin anew"
            )
        text, reason, error = map(fields.get, ("answer", "finish_reason", "error"))
        if error:
            found[question.id] = Answer(question, error=str(error))
        elif isinstance(text, str):
            found[question.id] = Answer(question, text, str(reason or "stop"))
    return found


def _of(
    benchmark: Benchmark, name: str | Path, lines: Iterator[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The lines, each of which must be about a question of the benchmark.

    Two sets of one's own may have one name, and answers of both must not mix.
    """
    ids = {question.id for question in benchmark.questions}
    for fields in lines:
        if fields["id"] not in ids:
            raise OptionError(
                f"{name}: its answer {fields['id']!r:.80} is to no question of"
                f" {benchmark.label}; name another file, or use --overwrite to begin"
                " anew"
            )
        yield fields


def read_answers(
    path: Path, benchmark: Benchmark, questions: Sequence[Question]
) -> tuple[str, dict[str, Answer]]:
    """Whose answers a file holds, and those to `questions`, by id.

    Raises:
        OptionError: it cannot be read, or holds none to these questions.
    """

    def lines() -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield FORM.decode(line)
                except ValueError:
                    if not FORM.is_whole(line):
                        return  # cut by a crash
                    raise OptionError(
                        f"{path}:{number}: is no answer that `eval -o` wrote; give"
                        " such a file"
                    ) from None

    name = ""

    def named() -> Iterator[dict[str, Any]]:
        nonlocal name
        for fields in lines():
            name = name or _name_in(fields) or path.stem
            yield fields

    try:
        found = matched(path, named(), questions, benchmark.suffix)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OptionError(f"{path}: {reason}; check the path") from error
    if not found:
        raise OptionError(
            f"{path}: has no answer to a question of {benchmark.label}; give a file"
            " that `eval -o` wrote of the same data"
        )
    return name, found


def _name_in(fields: Mapping[str, Any]) -> str:
    model, settings = fields.get("model"), fields.get("settings")
    if not isinstance(model, str):
        return ""
    return f"{model}, {settings}" if isinstance(settings, str) and settings else model


def out_path(out: str | None) -> Path | None:
    """The file of `-o`.

    Raises:
        OptionError: it is none that lines could be added to.
    """
    if out is None:
        return None
    if not out.strip() or out.strip() == "-":
        raise session.UsageError(
            f"-o {out or repr('')}: name a .jsonl file; the table goes to standard"
            " output"
        )
    path = Path(os.path.expanduser(out))
    if path.is_dir() or out.endswith(os.sep):
        raise OptionError(f"-o {out}: is a folder; name a file, such as answers.jsonl")
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise session.UsageError(
            f"-o {out}: answers are written as JSON lines; name it"
            f" {path.with_suffix('.jsonl').name}"
        )
    return path
