"""Teaches the demo model whose flags these are, then asks about flags it has not seen.

    python examples/draw_flags.py flag-images
    python examples/train_flags.py flag-images

`fastvlm-mlx train` does more: it scores before and after, and with the images hidden.
"""

import sys

from fastvlm_mlx import load
from fastvlm_mlx.train import (
    TrainOptions,
    prepare,
    read_samples,
    score,
    split,
    train,
    write_adapter,
)

folder = sys.argv[1]
model = load("demo")
samples, found = read_samples(f"{folder}/train")
print(found.summary())
data = prepare(model, *split(samples))
options = TrainOptions(
    epochs=24, batch=8, lr=2e-3, projector=True, projector_lr=2e-4, patience=8
)
result = train(model, data, options, on_event=print)
write_adapter(f"{folder}/adapter", result.adapter)

test, found = read_samples(f"{folder}/test")
given = [model.ask(sample.turns[0][0], list(sample.images)) for sample in test]
print(score([sample.answers[0] for sample in test], given))
