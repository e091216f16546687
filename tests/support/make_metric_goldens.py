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

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Here, so that it is no import of what runs among stand-ins: it loads once.
import numpy  # noqa: F401

from tests.support import official_metrics as official
from tests.support.metric_cases import LEAST, Case
from tests.support.paths import GOLDEN


def main() -> None:
    llava, kit, mmmu = map(Path, sys.argv[1:4])
    repositories = {
        llava: "haotian-liu/LLaVA",
        kit: "open-compass/VLMEvalKit",
        mmmu: "MMMU-Benchmark/MMMU",
    }
    makers: dict[str, tuple[Path, str, Callable[..., list[Case]]]] = {
        "vqa": (llava, "llava/eval/m4c_evaluator.py", official.vqa),
        "gqa": (llava, "scripts/convert_gqa_for_eval.py", official.gqa),
        "yes_no": (llava, "llava/eval/eval_pope.py", official.yes_no),
        "scienceqa": (
            llava,
            "llava/eval/eval_science_qa.py",
            official.scienceqa,
        ),
        "anls": (kit, "vlmeval/dataset/utils/vqa_eval.py", official.anls),
        "relaxed": (kit, "vlmeval/dataset/utils/vqa_eval.py", official.relaxed),
        "letter": (kit, "vlmeval/utils/matching_util.py", official.letter),
        "contained": (kit, "vlmeval/dataset/image_vqa.py", official.contained),
        "mmmu": (mmmu, "mmmu/utils/eval_utils.py", official.mmmu_cases),
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
            document["totals"] = official.pope(text, cases)[1]
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


if __name__ == "__main__":
    main()
