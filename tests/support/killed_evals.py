"""Kills `eval` again and again at random moments, and then lets it end.

    python -m tests.support.killed_evals MODEL DATA OUT KILLS

A fresh process imports everything once; each run is a fork of it, which answers from a
script, a question in a millisecond, and writes its lines as ever. It ends with the exit
code of the run that was not killed, and prints how many questions each run found done.
"""

import contextlib
import io
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from fastvlm_mlx.app import cli
from fastvlm_mlx.app.evaluation import run
from fastvlm_mlx.evaluation.ask import Answer, failed
from fastvlm_mlx.evaluation.question import Question


def ask(model: object, questions: Sequence[Question], **options: object):
    """Answers slowly; every tenth question fails."""
    for question in questions:
        time.sleep(0.001)
        if int(question.id[1:]) % 10 == 9:
            yield failed(question, "lost.png: no such file")
        else:
            yield Answer(question, f"answer {question.id}", "stop")


def start(arguments: list[str]) -> int:
    """A run in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        cli.main(arguments)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(70)


def main(model: str, data: str, out: str, kills: int) -> int:
    run.ask_questions = ask  # pyright: ignore[reportAttributeAccessIssue]
    run.Models.of = lambda self, setup: None  # pyright: ignore
    run.machine.facts = dict  # MLX does not survive a fork
    run.table.machine.line = lambda facts: "a machine"
    arguments = ["eval", model, data, "-o", out]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main([*arguments[:-1], f"{out}.warm.jsonl", "--limit", "1"])
    moments, counts = random.Random(4), set[int]()
    for number in range(kills):
        before = _size(out)
        child = start(arguments)
        # A fourth dies early, the others once they have written so much.
        early, more = number % 4 == 3, moments.randrange(10_000)
        end = time.monotonic() + (moments.uniform(0, 0.1) if early else 30)
        while time.monotonic() < end and _size(out) <= before + more:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if number % 3 == 0 and os.path.exists(out):
            with open(out, "ab") as file:
                file.write(b'{"id": "torn')
        counts.add(sum(line.endswith(b"\n") for line in _raw(out)))
    _, status = os.waitpid(start(arguments), 0)
    print(*sorted(counts))
    return os.waitstatus_to_exitcode(status)


def _size(out: str) -> int:
    return os.path.getsize(out) if os.path.exists(out) else 0


def _raw(out: str) -> Iterator[bytes]:
    if os.path.exists(out):
        with open(out, "rb") as file:
            yield from file


if __name__ == "__main__":
    _, name, questions, place, times = sys.argv
    sys.exit(main(name, questions, place, int(times)))
