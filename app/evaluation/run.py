"""`fastvlm-mlx eval`: asks a benchmark's questions and prints how many were right."""

import json
import random
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import machine, terminal
from fastvlm_mlx.app.evaluation import page, table
from fastvlm_mlx.app.evaluation.answers import Answers, read_answers
from fastvlm_mlx.app.evaluation.request import Request, check
from fastvlm_mlx.app.evaluation.result import difference_of, result_of
from fastvlm_mlx.app.evaluation.setup import Models, Setup, check_there
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.ask import Answer, ask_questions
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from fastvlm_mlx.evaluation.question import Benchmark, Question

LISTED = 10  # failures named at the end; the others are in the file


def run(request: Request) -> int:
    """Evaluates; returns the exit code, 1 if a question could not be asked.

    Raises:
        FastVLMError: an option, the data or the model cannot be used.
    """
    terminal.check_stdout()
    checked = check(request)
    benchmark = _benchmark(request)
    questions = sample(benchmark.questions, request.limit, request.seed)
    setup, other = request.setup, checked.other
    other_name, other_answers = "", dict[str, Answer]()
    with ExitStack() as files:
        first = Answers(
            setup, benchmark, questions, checked.out, overwrite=request.overwrite
        )
        todo = [files.enter_context(closing(first))]
        if isinstance(other, Path):
            other_name, other_answers = read_answers(other, benchmark, questions)
        elif other is not None:
            second = Answers(
                other,
                benchmark,
                questions,
                checked.other_out,
                overwrite=request.overwrite,
            )
            todo.append(files.enter_context(closing(second)))
            other_name, other_answers = request.against or "", second.known
        _ask_all(todo, benchmark, len(questions))
    metric = benchmark.metric
    result = result_of(first.setup.name, metric, questions, first.known)
    difference = None
    if other is not None:
        compared = result_of(other_name, metric, questions, other_answers)
        difference = difference_of(result, compared)
        if len(compared.marks) < len(questions):
            terminal.note(
                f"{other_name} has answers to {len(compared.marks)} of"
                f" {len(questions)} questions; those are compared"
            )
    facts = None if setup.url is not None else machine.facts()
    report = table.Report(benchmark, setup, result, difference, facts)
    if request.page is not None and difference is not None:
        page.write(request.page, report)
        terminal.note(f"page: {request.page}")
    if request.as_json:
        print(json.dumps(report.document(), ensure_ascii=True))
    else:
        for line in report.lines():
            print(terminal.printable(line))
    failures = [*result.failed]
    if difference is not None:
        failures += difference.second.failed
    return 1 if _tell(failures) else 0


def sample(
    questions: Sequence[Question], limit: int | None, seed: int
) -> list[Question]:
    """So many questions, in their order; a larger sample has those of a smaller one."""
    order = list(range(len(questions)))
    if limit is not None and limit < len(order):
        random.Random(seed).shuffle(order)
        order = sorted(order[:limit])
    return [questions[at] for at in order]


def _benchmark(request: Request) -> Benchmark:
    benchmark = read_benchmark(
        request.data, format=request.format, image_folder=request.image_folder
    )
    if not benchmark.questions:
        raise DataError(f"{request.data}: no question to ask; give data that has some")
    for note in benchmark.notes:
        terminal.note(f"note: {note}")
    if request.metric is not None:
        benchmark = replace(benchmark, metric=request.metric)
    if request.suffix is not None:
        benchmark = benchmark.with_suffix(request.suffix)
    return benchmark


def _ask_all(todo: Sequence[Answers], benchmark: Benchmark, count: int) -> None:
    models = Models()
    for answers in todo:
        name = ", ".join(
            filter(None, (answers.setup.name, answers.setup.shown_settings))
        )
        if there := len(answers.known):
            terminal.note(f"{name}: {there} of {count} questions are answered already")
    for answers in todo[1:]:  # not after hours of asking the first
        if answers.todo:
            check_there(answers.setup)
    for answers in todo:
        if answers.todo:
            _ask(answers, benchmark, models)


def _ask(answers: Answers, benchmark: Benchmark, models: Models) -> None:
    todo, setup = answers.todo, answers.setup
    done, begun = 0, time.perf_counter()
    given = _answered(setup, todo, benchmark, models)
    answers.begin()
    try:
        with terminal.progress("answering", count=True) as update, closing(given):
            update(0, len(todo))
            for answer in given:
                answers.add(answer)
                done += 1
                seconds = time.perf_counter() - begun
                note = terminal.format_rate(done, seconds, "question")
                update(done, len(todo), note)
    finally:
        seconds = time.perf_counter() - begun
        text = f"{done} questions answered in {seconds:.1f} s"
        if done:
            text += f" ({terminal.format_rate(done, seconds, 'question')})"
        terminal.note(text)
        if done < len(todo):
            left = f"{len(todo) - done} to go; "
            if answers.is_kept:
                left += "run the same command to go on"
            else:
                left += "none is kept; -o FILE.jsonl keeps them"
            terminal.note(left)


def _answered(
    setup: Setup, todo: Sequence[Question], benchmark: Benchmark, models: Models
) -> Generator[Answer, None, None]:
    common: dict[str, Any] = {
        "suffix": benchmark.suffix,
        "system": setup.options.system,
        "max_tokens": setup.max_tokens,
        "batch": setup.batch,
    }
    if setup.url is not None:
        from fastvlm_mlx.evaluation.server import ask_server

        return ask_server(setup.url, setup.model, todo, api_key=setup.api_key, **common)
    return ask_questions(
        models.of(setup),
        todo,
        fit=setup.options.fit,
        resolution=setup.options.resolution,
        tiles=setup.options.tiles,
        **common,
    )


def _tell(failures: Sequence[str]) -> bool:
    """Names the questions that could not be asked; whether there are any."""
    if failures:
        terminal.note(f"{len(failures)} failed, and count as wrong:")
    for failure in failures[:LISTED]:
        terminal.note(f"error: {failure}")
    if len(failures) > LISTED:
        terminal.note(f"and {len(failures) - LISTED} more")
    return bool(failures)
