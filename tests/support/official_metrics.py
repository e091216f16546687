"""Runs the official evaluation code, as text of its files, on made-up answers."""

import contextlib
import io
import json
import random
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

# Here, so that it is no import of what runs among stand-ins: it loads once.
import numpy  # noqa: F401

from tests.support.metric_cases import (
    CASES,
    FRAMES,
    OPEN,
    WORDS,
    Case,
    choice,
    pairs,
    varied,
)


@contextlib.contextmanager
def modules(**attributes: dict[str, Any]) -> Iterator[None]:
    """Stand-ins for modules that the official files import; "__" stands for "."."""
    stand_ins: dict[str, types.ModuleType] = {}
    for name, values in attributes.items():
        parts = name.split("__")
        for end in range(1, len(parts) + 1):
            dotted = ".".join(parts[:end])
            stand_ins.setdefault(dotted, types.ModuleType(dotted))
        stand_ins[".".join(parts)].__dict__.update(values)
    with mock.patch.dict(sys.modules, stand_ins):
        yield


def loaded(text: str, **names: Any) -> dict[str, Any]:
    """The names of an official file after running it."""
    values: dict[str, Any] = {"__name__": "official", **names}
    exec(compile(text, "official", "exec"), values)
    return values


def vqa(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    with modules(tqdm={"tqdm": lambda values: values}):
        evaluator = loaded(text)["TextVQAAccuracyEvaluator"]()
    cases = []
    for right, answer in pairs(rng):
        ten = [varied(rng, rng.choice(right)) for _ in range(10)]
        if rng.random() < 0.5:
            ten[: rng.randrange(1, 10)] = [ten[0]] * rng.randrange(1, 10)
            ten = (ten * 10)[:10]
        entry = {"pred_answer": answer, "gt_answers": ten}
        cases.append([ten, [], "", answer, evaluator.eval_pred_list([entry])])
    processor = evaluator.answer_processor
    words = {**processor.CONTRACTIONS, **processor.NUMBER_MAP}
    # Its table of numbers has grown by all words above, each its own form.
    for written, meant in sorted(words.items()):
        if written != meant:
            ten = [meant] * 10
            entry = {"pred_answer": written, "gt_answers": ten}
            cases.append([ten, [], "", written, evaluator.eval_pred_list([entry])])
    return cases


def anls(rng: random.Random, text: str, kit: Path) -> list[Case]:
    official = vqa_eval(text, kit)
    cases = []
    for right, answer in pairs(rng):
        line = {"answer": repr(right), "prediction": answer}
        hit = official["hit_calculate"](
            [official["process_line"](line, method="anls")], "DocVQA_VAL"
        )
        cases.append([right, [], "", answer, float(hit[0])])
    return cases


def relaxed(rng: random.Random, text: str, kit: Path) -> list[Case]:
    official = vqa_eval(text, kit)
    cases = []
    for right, answer in pairs(rng):
        if rng.random() < 0.6:
            value = rng.choice((0, 1, 5, 12.5, 100, 2019, -40, 1e-3, 1234567))
            right = [f"{value:g}{rng.choice(('', '', '%', ' %', ' cm'))}"]
            near = value * rng.choice(
                (1, 1.04, 0.951, 1.05, 0.95, 1.06, 0.94, -1, 0.01)
            )
            answer = rng.choice(
                ("{:g}", "{:g}%", " {:g} ", "{:.3f}", "{:,.0f}", "${:g}")
            )
            answer = answer.format(near)
        line = {"answer": repr(right), "prediction": answer}
        match = official["process_line"](line, method="relaxed_accuracy")
        hit = official["hit_calculate"]([match], "ChartQA_TEST")
        cases.append([right, [], "", answer, float(hit[0])])
    return cases


def vqa_eval(text: str, kit: Path) -> dict[str, Any]:
    def istype(value: str, kind: type) -> bool:
        return isinstance(eval(value), kind)

    def listinstr(names: list[str], text: str) -> bool:
        return any(name.lower() in text.lower() for name in names)

    # Of vlmeval.smp only these two are called by the two methods that are run here.
    names = {"istype": istype, "listinstr": listinstr, "process_punctuation": None}
    with modules(vlmeval__smp=names):
        return loaded(text)


def gqa(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    asked = [(right[0].lower(), answer) for right, answer in pairs(rng)]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "answers.jsonl"), Path(folder, "found.json")
        rows = (
            # LLaVA writes answers without blanks around them.
            {"question_id": number, "text": answer.strip()}
            for number, (_, answer) in enumerate(asked)
        )
        given.write_text("\n".join(map(json.dumps, rows)))
        arguments = ["convert", "--src", str(given), "--dst", str(found)]
        with mock.patch.object(sys, "argv", arguments):
            loaded(text)
        said = [row["prediction"] for row in json.loads(found.read_text())]
    return [
        [[right], [], "", answer, float(right == prediction)]
        for (right, answer), prediction in zip(asked, said, strict=True)
    ]


def yes_no(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    starts = ("Yes", "No", "yes", "no", "YES", "NO", "Yes, it is", "No, it is not", "")
    rests = ("", ".", ", there is", ". No dog", " dog is not there", "\nno", " nor cat")
    cases: list[Case] = []
    for _ in range(CASES):
        answer = varied(rng, rng.choice(starts) + rng.choice(rests)).strip()
        cases.append([[rng.choice(("yes", "no"))], [], "", answer])
    said, _ = pope(text, cases)
    return [
        [*case, float(yes == case[0][0])] for case, yes in zip(cases, said, strict=True)
    ]


def pope(text: str, cases: Sequence[Case]) -> tuple[list[str], dict[str, float]]:
    """What each answer is taken for, and the figures that the script prints."""
    official = loaded(text)["eval_pope"]
    rows = [{"text": case[3]} for case in cases]
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coco_pope_random.json")
        labels = (json.dumps({"label": case[0][0]}) for case in cases)
        path.write_text("\n".join(labels))
        with contextlib.redirect_stdout(printed):
            official(rows, str(path))
    figures = dict(
        line.split(": ") for line in printed.getvalue().splitlines() if ": " in line
    )
    return [row["text"] for row in rows], {k: float(v) for k, v in figures.items()}


def letter(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    logger = types.SimpleNamespace(info=print)
    with modules(vlmeval__smp__log={"get_logger": lambda name: logger}):
        can_infer = loaded(text)["can_infer"]
    cases = []
    for _ in range(CASES):
        options, right, said = choice(rng)
        found = can_infer(said, dict(zip("ABCDE", options, strict=False)))
        cases.append([[right], list(options), "", said, float(found == right)])
    return cases


def scienceqa(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    """Runs the whole script over one set of questions and answers."""
    asked = [choice(rng, FRAMES[:5] + FRAMES[11:14]) for _ in range(CASES // 2)]
    asked += [choice(rng) for _ in range(CASES // 2)]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        problems = {
            str(number): {"choices": options, "answer": "ABCDE".index(right)}
            for number, (options, right, _) in enumerate(asked)
        }
        (base / "problems.json").write_text(json.dumps(problems))
        (base / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
        rows = (
            {"question_id": str(number), "text": said.strip(), "prompt": "<image>"}
            for number, (_, _, said) in enumerate(asked)
        )
        (base / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
        arguments = ["eval", "--base-dir", folder]
        arguments += ["--result-file", str(base / "answers.jsonl")]
        arguments += ["--output-file", str(base / "out.json")]
        arguments += ["--output-result", str(base / "result.json")]
        with (
            mock.patch.object(sys, "argv", arguments),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            loaded(text, __name__="__main__")
        found = json.loads((base / "out.json").read_text())
        correct = {each["question_id"] for each in found["correct"]}
    return [
        [[right], list(options), "", said, float(str(number) in correct)]
        for number, (options, right, said) in enumerate(asked)
    ]


def contained(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    """Runs OCRBench's `evaluate`, cut out of its file, on one answer at a time."""
    lines = text.split("\n")
    start = lines.index("class OCRBench(ImageBaseDataset):")
    end = next(n for n in range(start + 1, len(lines)) if lines[n].startswith("class "))
    formulas = "Handwritten Mathematical Expression Recognition"
    written: list[dict[str, Any]] = []
    table = Table()
    official = loaded(
        "\n".join(lines[start:end]),
        ImageBaseDataset=object,
        load=lambda file: table,
        tqdm=lambda values: values,
        get_intermediate_file_path=lambda *parts: "",
        dump=lambda value, path: written.append(value),
    )["OCRBench"]
    cases = []
    for right, answer in pairs(rng):
        category = rng.choice((formulas, "Regular Text Recognition"))
        if rng.random() < 0.3:
            answer = f"It says {answer}\nas one reads"
        table.line = {
            "answer": repr(right),
            "prediction": answer,
            "category": category,
        }
        found = official.evaluate("")["Final Score"]
        cases.append([right, [], category, answer, float(found)])
    return cases


class Table:
    """A data frame of one row, as far as the official code asks."""

    line: dict[str, Any] = {}

    @property
    def iloc(self) -> list[dict[str, Any]]:
        return [self.line]

    def __len__(self) -> int:
        return 1


def mmmu_cases(rng: random.Random, text: str, checkout: Path) -> list[Case]:
    official = loaded(text)
    # Drawn at random officially; wrong here.
    official["random"] = types.SimpleNamespace(choice=lambda letters: None)
    cases = []
    for _ in range(CASES):
        options, right, said = choice(rng)
        by_letter = dict(zip("ABCDE", options, strict=False))
        found = official["parse_multi_choice_response"](
            said, list(by_letter), by_letter
        )
        mark = official["eval_multi_choice"](right, found)
        cases.append([[right], list(options), "", said, float(mark)])
    numbers = ("6.23", "$6.23", "12345", "12,345", "-4", "0.333", "5", "x", "7 cm")
    for _ in range(CASES):
        accepted = [rng.choice((*numbers, *WORDS)) for _ in range(rng.choice((1, 2)))]
        inner = rng.choice(accepted) if rng.random() < 0.7 else rng.choice(numbers)
        frame = rng.choice(OPEN)
        said = frame.replace("{}", varied(rng, inner))
        found = official["parse_open_response"](said)
        mark = official["eval_open"](accepted, found)
        cases.append([accepted, [], "", said, float(mark)])
    return cases
