"""Evaluation: the questions of a benchmark, a model's answers, and how they score.

    from fastvlm_mlx import load
    from fastvlm_mlx.evaluation import METRICS, Tally, ask_questions, read_benchmark

    benchmark, tally = read_benchmark("examples"), Tally()
    for answer in ask_questions(load("demo"), benchmark.questions):
        mark = METRICS[benchmark.metric].mark(answer.question, answer.text)
        tally.add(answer.question.category, mark)
    print(tally.total())

Names are resolved on first use, as in `fastvlm_mlx`.
"""

from fastvlm_mlx.lazy_names import resolver

TYPE_CHECKING = False  # see fastvlm_mlx/__init__.py
if TYPE_CHECKING:
    from fastvlm_mlx.evaluation.ask import Answer, ask_questions
    from fastvlm_mlx.evaluation.formats.read import read_benchmark
    from fastvlm_mlx.evaluation.metrics import METRICS
    from fastvlm_mlx.evaluation.metrics.metric import Metric
    from fastvlm_mlx.evaluation.question import Benchmark, Question
    from fastvlm_mlx.evaluation.server import ask_server
    from fastvlm_mlx.evaluation.statistics import Comparison, compare
    from fastvlm_mlx.evaluation.tally import Row, Tally

_HOMES = {
    "Answer": "evaluation.ask",
    "Benchmark": "evaluation.question",
    "Comparison": "evaluation.statistics",
    "METRICS": "evaluation.metrics",
    "Metric": "evaluation.metrics.metric",
    "Question": "evaluation.question",
    "Row": "evaluation.tally",
    "Tally": "evaluation.tally",
    "ask_questions": "evaluation.ask",
    "ask_server": "evaluation.server",
    "compare": "evaluation.statistics",
    "read_benchmark": "evaluation.formats.read",
}

__all__ = [
    "METRICS",
    "Answer",
    "Benchmark",
    "Comparison",
    "Metric",
    "Question",
    "Row",
    "Tally",
    "ask_questions",
    "ask_server",
    "compare",
    "read_benchmark",
]


__getattr__ = resolver(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
