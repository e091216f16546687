"""Apple's own figures for FastVLM, to be shown beside measured ones.

Of the model cards of apple/FastVLM-0.5B, -1.5B and -7B (huggingface.co), which give the
same table for the checkpoints of stage 3. GQA and POPE are not in it, and it does not
say of which split, prompt or parsing of answers its figures are.
"""

import re

_SIZES = ("0.5b", "1.5b", "7b")

# Per cent, in the order of the sizes. OCRBench's are points of 1000, by ten.
_FIGURES: dict[str, tuple[float, float, float]] = {
    "ai2d": (68.0, 77.4, 83.6),
    "chartqa": (76.0, 80.1, 85.0),
    "docvqa": (82.5, 88.3, 93.2),
    "infovqa": (46.4, 59.7, 75.8),
    "mmmu": (33.9, 37.8, 45.4),
    "ocrbench": (63.9, 70.2, 73.1),
    "realworldqa": (56.1, 61.2, 67.2),
    "scienceqa": (85.2, 94.4, 96.7),
    "seedbench": (71.0, 74.2, 75.4),
    "textvqa": (64.5, 70.4, 74.9),
}

# Names such as FastVLM-0.5B, llava-fastvithd_1.5b_stage3, FastVLM-7B-int4. A number
# before the size, as in "10.5b" or "1.7b", makes it another model.
_NAME = re.compile(r"(?:fastvlm|fastvithd)[-_ ]?(0\.5b|1\.5b|7b)(?![0-9a-z])")


def model_size(model_name: str) -> str | None:
    """Which of "0.5b", "1.5b" and "7b" a model is, by its name, path or hub id.

    None if it is no FastVLM of Apple's, or of an earlier stage of training.
    """
    name = model_name.lower().rstrip("/\\")
    if name in _SIZES:  # the command line's short names
        return name
    found = _NAME.findall(name)
    if not found or "stage2" in name:
        return None
    return found[-1]


def published_figure(model_name: str, benchmark_name: str) -> float | None:
    """The published accuracy of a model in per cent; None where there is none.

    Args:
        model_name: a name, path or hub id, such as "apple/FastVLM-0.5B".
        benchmark_name: a `Benchmark.name`, such as "textvqa".
    """
    size = model_size(model_name)
    figures = _FIGURES.get(benchmark_name)
    if size is None or figures is None:
        return None
    return figures[_SIZES.index(size)]
