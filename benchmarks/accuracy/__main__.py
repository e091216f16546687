"""Measures a model's accuracy on drawn images, through the public API.

    python -m benchmarks.accuracy demo
    python -m benchmarks.accuracy FOLDER --images 1000 --resolution 512
    python -m benchmarks.accuracy demo --variants              # all variants
    python -m benchmarks.accuracy demo --variants 4-bit tiles

For each kind of question N images are drawn from seeds that training did not use, and
one question of that kind is asked about each with `model.ask`, greedy. An answer is
right if it equals the expected one exactly. The second table ("unseen look") has a
font, shades and words that training did not use. All rows are asked the same questions
about the same images. `python -m benchmarks.accuracy.draw FOLDER` writes them for
`fastvlm-mlx eval`, whose metric and statistics these are. The fonts that
training/README.md names must be installed. The last line of stdout is one JSON
document.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.accuracy import table
from benchmarks.accuracy.asking import LOOKS, answers, draw_questions
from benchmarks.accuracy.table import Row
from benchmarks.accuracy.variants import NAMES, SHIPPED, make_variants
from fastvlm_mlx.app import machine as this_machine
from fastvlm_mlx.device import device_dtype, on_cpu
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.model_folder import converted
from training import questions


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def arguments() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("model", nargs="?", default="demo", help="name or folder")
    parser.add_argument("--images", type=positive, default=100, help="for each kind")
    parser.add_argument(
        "--kinds", nargs="+", default=list(questions.KINDS), choices=questions.KINDS
    )
    parser.add_argument(
        "--resolution", type=int, help="pixels a side (default: model's)"
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        metavar="NAME",
        choices=NAMES[1:],
        help=f"measure these too, or all: {', '.join(NAMES[1:])}",
    )
    # A machine has one GPU. On a CPU one process per core is several times faster than
    # one process with threads.
    parser.add_argument(
        "--workers",
        type=positive,
        default=(os.cpu_count() or 1) if on_cpu() else 1,
        help="processes that ask (default: %(default)s)",
    )
    return parser


def run(options: argparse.Namespace) -> None:
    """Asks everything and prints the tables."""
    chosen = NAMES[1:] if options.variants == [] else options.variants or ()
    names = [SHIPPED, *(name for name in NAMES if name in chosen)]
    with tempfile.TemporaryDirectory() as scratch:
        source = converted(options.model)
        variants = make_variants(names, source, Path(scratch), options.resolution)
        rows = [Row(variant) for variant in variants]
        to_ask = draw_questions(options.kinds, options.images)
        every = len(LOOKS) * len(options.kinds) * options.images
        replies = answers(variants, to_ask, options.workers)
        for done, (question, given) in enumerate(replies, start=1):
            for row, answer in zip(rows, given, strict=True):
                row.count(question, answer, same_as=given[0])
            if sys.stderr.isatty():
                print(f"\r{done}/{every} ", end="", file=sys.stderr, flush=True)
            elif done * 10 // every > (done - 1) * 10 // every:  # in a pipe ten lines
                print(f"{done}/{every}", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    machine = this_machine.facts()
    dtype = str(device_dtype()).removeprefix("mlx.core.")
    print("\n\n".join(table.markdown(rows, options.kinds, options.images, dtype)))
    print(f"\n{options.model} on {this_machine.line(machine)}")
    settings = {"model": options.model, "images": options.images, "dtype": dtype}
    report = {"rows": table.document(rows, options.kinds), "machine": machine}
    print(json.dumps(settings | report))


def main() -> None:
    options = arguments().parse_args()
    try:
        run(options)
    except (FastVLMError, FileNotFoundError) as fault:  # a model, or a font
        sys.exit(f"benchmarks.accuracy: {fault}")


if __name__ == "__main__":
    main()
