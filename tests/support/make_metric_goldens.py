"""Scores made-up answers with the official evaluation code and writes the results.

    git clone https://github.com/haotian-liu/LLaVA
    git clone https://github.com/open-compass/VLMEvalKit
    git clone https://github.com/MMMU-Benchmark/MMMU
    python -m tests.support.make_metric_goldens LLaVA VLMEvalKit MMMU

Writes `tests/golden/metrics/METRIC.json`: where the code is from, and a case for each
answer: [accepted answers, options, category, answer, score]. The code is run as it is
in the checkouts' HEAD; imports that only fetch data are replaced by empty modules.
Bare clones will do. Needs numpy and pandas' absence is no fault.
"""

import contextlib
import io
import json
import random
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

# Here, so that it is no import of what runs among stand-ins: it loads once.
import numpy  # noqa: F401

from tests.support.paths import GOLDEN

CASES = 400  # of each metric
LEAST = 200  # of them unlike
Case = list[Any]

WORDS = (
    "yes|no|No|not|none|one|two|ten|zero|the|a|an|A|The|stop|Stop sign|coca cola|"
    "COCA-COLA|dont|don't|cant|isnt|its|it's|what's|whats|o'clock|oclock|nokia|Nokia's|"
    "new york|New  York|café|cafe\u0301|Öl|straße|STRASSE|İstanbul|日本語|２０|½|"
    "$5.00|5.00|5|5.0|12,000|12000|1.2e3|50%|50 %|0.5|-3|- 3|3 cm|3cm|1/2|10:30|"
    "10.30|a.m.|U.S.A.|u.s.a|e.g.|p. 12|[red]|(blue)|{x}|re-do|re - do|his/her|"
    'his / her|100+|#1|@home|<b>|`q`|"quoted"|under_score|back\\slash|=|?|!|.|...|'
    "somebody'd|Im|Id've|twas|y'all|yall|nineteen|red, white and blue|red|white|blue"
).split("|")


def main() -> None:
    llava, kit, mmmu = map(Path, sys.argv[1:4])
    repositories = {
        llava: "haotian-liu/LLaVA",
        kit: "open-compass/VLMEvalKit",
        mmmu: "MMMU-Benchmark/MMMU",
    }
    makers: dict[str, tuple[Path, str, Callable[..., list[Case]]]] = {
        "vqa": (llava, "llava/eval/m4c_evaluator.py", vqa),
        "gqa": (llava, "scripts/convert_gqa_for_eval.py", gqa),
        "yes_no": (llava, "llava/eval/eval_pope.py", yes_no),
        "scienceqa": (llava, "llava/eval/eval_science_qa.py", scienceqa),
        "anls": (kit, "vlmeval/dataset/utils/vqa_eval.py", anls),
        "relaxed": (kit, "vlmeval/dataset/utils/vqa_eval.py", relaxed),
        "letter": (kit, "vlmeval/utils/matching_util.py", letter),
        "contained": (kit, "vlmeval/dataset/image_vqa.py", contained),
        "mmmu": (mmmu, "mmmu/utils/eval_utils.py", mmmu_cases),
    }
    GOLDEN.joinpath("metrics").mkdir(exist_ok=True)
    for name, (checkout, file, make) in makers.items():
        rng = random.Random(name)
        cases = make(rng, Path(source(checkout, file)).read_text(), checkout)
        assert len({json.dumps(case) for case in cases}) >= LEAST, name
        document: dict[str, Any] = {
            "source": f"https://github.com/{repositories[checkout]} {file}",
            "commit": git(checkout, "rev-parse", "HEAD").strip(),
            "cases": cases,
        }
        if name == "yes_no":
            text = Path(source(checkout, file)).read_text()
            document["totals"] = pope(text, cases)[1]
        write(GOLDEN / "metrics" / f"{name}.json", document)
        marks = [case[-1] for case in cases]
        print(f"{name}: {len(marks)} cases, mean {sum(marks) / len(marks):.2f}")


def git(checkout: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True
    )
    return run.stdout


def source(checkout: Path, file: str) -> str:
    """A file of HEAD, written to a temporary place."""
    text = git(checkout, "show", f"HEAD:{file}")
    assert text, f"{checkout}: no {file}"
    place = Path(tempfile.mkdtemp(), Path(file).name)
    place.write_text(text)
    return str(place)


def write(path: Path, document: dict[str, Any]) -> None:
    lines = ",\n".join(
        json.dumps(case, ensure_ascii=False) for case in document["cases"]
    )
    head = json.dumps({k: v for k, v in document.items() if k != "cases"}, indent=1)
    path.write_text(f'{head[:-2]},\n "cases": [\n{lines}\n]}}\n', encoding="utf-8")


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


def phrase(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.choice((1, 1, 1, 2, 3, 5))))


def varied(rng: random.Random, text: str) -> str:
    """A text that is much the same: other case, marks, blanks, a letter off."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        text = rng.choice(
            (
                text.upper(),
                text.lower(),
                text.capitalize(),
                f"{text}.",
                f"{text}..",
                f"the {text}",
                f" {text}  ",
                f"{text}\n",
                text.replace(" ", "  "),
                text.replace("'", ""),
                text[:at] + text[at + 1 :],
                text[:at] + rng.choice("xé,.-' 7%") + text[at:],
                "",
            )
        )
    return text


def pairs(rng: random.Random) -> Iterator[tuple[list[str], str]]:
    """Accepted answers, one to ten, and an answer that is like one or not."""
    for _ in range(CASES):
        right = [phrase(rng) for _ in range(rng.choice((1, 2, 3)))]
        answer = varied(rng, rng.choice(right)) if rng.random() < 0.8 else phrase(rng)
        yield right, answer


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


OPTIONS = (
    ("cat", "dog", "bird", "none of the above"),
    ("1", "2", "10", "20"),
    ("A dog", "B dog", "red"),
    ("yes", "no"),
    ("The Great Wall", "the wall", "a very long text of an option here", "Wall", "X"),
    ("rouge", "é", "日本", "x+y"),
)
FRAMES = (
    "{l}|{l}.|({l})|{l})|{l}:|{l}. {t}|{l} {t}|{t}|{T}.|Answer: {l}|answer is {l}|"
    "The answer is {l}.|The answer is ({l})|The correct answer is **{l}**. Here is why|"
    "Option {l}|{l} or {m}|({l}) and ({m})|I think it is {t}, not {u}|{l}{m}|{s}|"
    "It could be {l}, but the answer is {m} because of what is seen in the image|"
    "A long sentence that never says which of them is right at all|Z|none|\n{l}\n|"
    "The object in the image is clearly {t} as one can see|{l}, {m}|'{l}'|[{l}]|*{l}*|"
    "A cat is in the image, {l} then|{l}\nBecause {u}|Cannot determine the answer {l}|"
    "the best choice here would be option {l} and also perhaps option {m}|E|{l}, {t}!"
).split("|")


def choice(
    rng: random.Random, frames: Sequence[str] = FRAMES
) -> tuple[tuple[str, ...], str, str]:
    """Options, the right letter, and an answer."""
    options = rng.choice(OPTIONS)
    one, two = rng.randrange(len(options)), rng.randrange(len(options))
    said = rng.choice(frames).format(
        l="ABCDE"[one],
        m="ABCDE"[two],
        s="abcde"[one],
        t=options[one],
        T=options[one].upper(),
        u=options[two],
    )
    right = rng.choice((one, one, two))
    return options, "ABCDE"[right], said


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


OPEN = (
    "{}|{}.|The answer is {}|So the result is {}.|x = {}|= {}|It could be {} or 7|"
    "Therefore, {}\nfinal {}|The total is 3. Thus the answer is {} dollars|${}|{}%|"
    "First 12,345 then 1.5e3 so {}|about {} m|is|.|x = {}\nthat is all|"
    "a = 5\nb = {}|so\n{}\nis: 3|{} = y\nfinal 9|it is ,\nthus {}|"
).split("|")


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


if __name__ == "__main__":
    main()
