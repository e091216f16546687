"""`fastvlm-mlx chat --choices`: the probability of each of several given answers."""

import csv
import dataclasses
import math
import sys
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.conversation.choose import check_choices
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastvlm_mlx.conversation.attachment import ImageSources
    from fastvlm_mlx.conversation.choose import Choice
    from fastvlm_mlx.conversation.conversation import Conversation

# Less for all choices together: the model would have said something else.
UNLIKELY = 0.01


def read_choices(text: str) -> tuple[str, ...]:
    """The choices in `--choices`: separated by commas, quoted as in a CSV file.

    Raises:
        UsageError: they are too few, too many, empty or not distinct.
    """
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
        return check_choices(row)
    except OptionError as error:
        raise UsageError(f"--{error}") from None
    except (csv.Error, ValueError):  # ValueError: no row, or a line break
        raise UsageError(
            f"--choices {text!r:.60}: give them on one line, separated by commas, such"
            " as --choices 'yes,no'; quote one that has a comma: '\"a, b\",c'"
        ) from None


def check_options(sampling: Sampling, *, schema: bool, stats: bool) -> None:
    """Refuses options that would have no effect beside `--choices`.

    Raises:
        UsageError: one of them was given.
    """
    if schema:
        raise UsageError(
            "--choices and --schema both say what the answer is; give one of them"
        )
    usual = Sampling()
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(Sampling)
        if getattr(sampling, field.name) != getattr(usual, field.name)
    ]
    for name in (*given, *(["--stats"] if stats else [])):
        raise UsageError(
            f"{name} has no effect beside --choices, which scores every choice and"
            " generates nothing; leave one of them out"
        )


def answer(
    conversation: "Conversation",
    question: str,
    images: "ImageSources",
    choices: tuple[str, ...],
    model: str,
    *,
    names: "Sequence[str]",
    as_json: bool,
) -> None:
    """Prints the choices with their probabilities, the likeliest first.

    In a pipe a line is the choice, a tab and the probability; the JSON object keeps the
    order in which they were given. `names` are what the images are called there.
    """
    found = conversation.choose(question, images, choices)
    if as_json:
        print(terminal.json_text(_record(found, question, names, model)))
    else:
        terminal.emit(_table(found, on_terminal=sys.stdout.isatty()))
    if math.fsum(map(math.exp, found.logprobs)) < UNLIKELY:
        terminal.note(
            "note: the model would rather answer something else than any of these;"
            " name them in the question, or write them as it would"
        )


def _table(found: "Choice", *, on_terminal: bool) -> str:
    rows = zip(found.choices, found.probabilities, strict=True)
    rows = sorted(rows, key=lambda row: -row[1])
    if on_terminal:
        width = max(map(len, found.choices))
        return "".join(f"{text:<{width}}  {100 * p:5.1f} %\n" for text, p in rows)
    return "".join(f"{' '.join(text.split())}\t{p:.6f}\n" for text, p in rows)


def _record(
    found: "Choice", question: str, images: "Sequence[str]", model: str
) -> dict[str, object]:
    columns = (found.choices, found.probabilities, found.logprobs, found.token_counts)
    return {
        "model": model,
        "images": list(images),
        "prompt": question,
        "answer": found.answer,
        "choices": [
            {"choice": text, "probability": p, "logprob": logprob, "tokens": tokens}
            for text, p, logprob, tokens in zip(*columns, strict=True)
        ],
    }
