"""One way of training with fastvlm-mlx, measured in a process of its own.

    python -m benchmarks.train.ours SETTINGS

SETTINGS is a JSON object, see `benchmarks/train/__main__.py`. Prints a JSON object.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from fastvlm_mlx import load
from fastvlm_mlx.adapters.layers import add_layers
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.peak_memory import peak_memory
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess
from fastvlm_mlx.train.data.batches import Features, make_batch
from fastvlm_mlx.train.data.features import FeatureStore
from fastvlm_mlx.train.data.rows import build_row
from fastvlm_mlx.train.data.samples import Image, Sample
from fastvlm_mlx.train.dropout import keyed_dropouts
from fastvlm_mlx.train.learner import Learner
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.run import adapter_spec, learning_names


class EncodedAgain:
    """Features that are computed whenever they are read, as other trainers do."""

    dtype = mx.float32

    def __init__(self, model: FastVLM, store: FeatureStore):
        self.model, self.width = model, store.width

    def read(self, image: Image) -> mx.array:
        config = self.model.config
        options = ImageOptions.of(config)
        pixels = preprocess(open_image(image), options, config.grid_pinpoints)
        mx.eval(features := self.model.encode_features(pixels).flatten(0, 1))
        return features


def steps(
    model: FastVLM, samples: list[Sample], features: Features, settings: dict[str, Any]
) -> Iterator[float]:
    """Trains without end; yields the mean loss of each step."""
    options = TrainOptions(
        rank=settings["rank"], checkpoint=settings["checkpoint"], batch=len(samples)
    )
    spec = adapter_spec(options)
    add_layers(model, spec)
    with keyed_dropouts(model) as dropouts:
        learner = Learner(
            model, learning_names(model, options, spec), options, dropouts
        )
        parameters, moments = learner.start, learner.no_moments()
        vision = model.config.vision
        assert vision is not None
        tokens = vision.tokens(model.config.image_size)
        rows = [build_row(each, model.tokenizer, [tokens]) for each in samples]
        count = 0
        while True:
            batch = make_batch(rows, features, len(rows))
            loss, gradients = learner.gradients(parameters, batch, mx.random.key(count))
            mean = 1 / batch.weights.sum()
            gradients = {name: mean * array for name, array in gradients.items()}
            parameters, moments, _ = learner.update(
                parameters, moments, gradients, count, 1.0
            )
            count += 1
            yield float(np.array(loss * mean))


def main() -> None:
    settings = json.loads(sys.argv[1])
    model = load(settings["model"])
    flat: Any = tree_flatten(model.parameters())
    weights = sum(array.nbytes for _, array in flat)
    found: dict[str, Any] = {"seconds": [], "cpu": [], "losses": [], "weights": weights}
    samples = [
        Sample((Path(image),), ((settings["question"], settings["answer"]),))
        for image in settings["images"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder, model)
        features: Features = EncodedAgain(model, store)
        if settings["kept"]:
            begun = time.perf_counter()
            store.prepare(samples)
            found["encoding"] = (time.perf_counter() - begun) / len(samples)
            features = store
        mx.clear_cache()
        mx.reset_peak_memory()
        running = steps(model, samples, features, settings)
        for _ in range(1 + settings["steps"]):  # the first one warms up
            begun, used = time.perf_counter(), time.process_time()
            found["losses"].append(next(running))
            found["seconds"].append(time.perf_counter() - begun)
            found["cpu"].append(time.process_time() - used)
    found["process_peak"] = peak_memory()
    found["peak"] = mx.get_peak_memory()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
