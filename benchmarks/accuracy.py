"""Accuracy of a converted model on the picture world, through the product's own path.

    python -m benchmarks.accuracy demo
    python -m benchmarks.accuracy FOLDER --pictures 1000 --resolution 512

For each kind of question, N pictures that raise it are drawn from seeds that training
never used, and one question of that kind is asked about each with `model.ask`, greedy.
An answer counts when it equals the right one exactly. The second set ("unseen look")
has a font, shades and words that training never showed. Needs the fonts that
training/README.md names. The last line of stdout is one JSON document.
"""

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from fastvlm_mlx import load
from training import drawing, questions, world

FIRST_SEED = 2_000_000_000  # training ends far below
MAX_TOKENS = 96


def asked(
    kind: str, number: int, held_out: bool
) -> Iterator[tuple[Image.Image, questions.Pair]]:
    """`number` pictures with one question of `kind` each; numbers have two digits."""
    seed = FIRST_SEED + 10_000_000 * questions.KINDS.index(kind)
    found = 0
    while found < number:
        scene = world.sample(seed, held_out=held_out)
        seed += 1
        pairs = [pair for pair in questions.pairs(scene) if pair.kind == kind]
        if kind == "number":
            pairs = [pair for pair in pairs if len(pair.answer) == 2]
        if pairs:
            found += 1
            choice = np.random.default_rng(seed).integers(len(pairs))
            yield Image.fromarray(drawing.render(scene)), pairs[choice]


def measure(
    model, kinds: list[str], number: int, held_out: bool, **options
) -> dict[str, float]:
    """kind -> share of exact answers."""
    shares = {}
    for kind in kinds:
        counts = Counter()
        for image, pair in asked(kind, number, held_out):
            answer = model.ask([image], pair.question, **options)
            counts[answer.strip() == pair.answer] += 1
            if sys.stderr.isatty():
                text = f"\r{kind} {counts[True]}/{counts.total()} "
                print(text, end="", file=sys.stderr, flush=True)
        shares[kind] = counts[True] / counts.total()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default="demo", help="name or folder")
    parser.add_argument("--pictures", type=int, default=100, help="for each kind")
    parser.add_argument("--kinds", nargs="*", default=list(questions.KINDS))
    parser.add_argument(
        "--resolution", type=int, help="pixels a side (default: model's)"
    )
    options = parser.parse_args()
    model = load(options.model)
    extra = {"resolution": options.resolution} if options.resolution else {}
    started = time.perf_counter()
    sets = {
        name: measure(
            model, options.kinds, options.pictures, held_out,
            max_tokens=MAX_TOKENS, temperature=0.0, **extra,
        )
        for name, held_out in (("other seeds", False), ("unseen look", True))
    }  # fmt: skip
    minutes = (time.perf_counter() - started) / 60
    print(f"{'kind':10} {'other seeds':>12} {'unseen look':>12}")
    for kind in options.kinds:
        row = " ".join(f"{shares[kind]:12.1%}" for shares in sets.values())
        print(f"{kind:10} {row}")
    machine = f"{platform.system()} {platform.machine()}"
    print(f"{options.pictures} pictures a kind, {minutes:.1f} minutes, {machine}")
    settings = {
        name: getattr(options, name) for name in ("model", "pictures", "resolution")
    }
    print(json.dumps(settings | {"machine": machine} | sets))


if __name__ == "__main__":
    main()
