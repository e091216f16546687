"""Training: samples of images and answers to an adapter of a model.

    from fastvlm_mlx import load
    from fastvlm_mlx.train import prepare, read_samples, split, train, write_adapter

    model = load("demo")
    samples, report = read_samples("flags/train")
    result = train(model, prepare(model, *split(samples)), on_event=print)
    write_adapter("flags-lora", result.adapter)

Names are resolved on first use, as in `fastvlm_mlx`.
"""

from fastvlm_mlx.lazy_names import resolver

TYPE_CHECKING = False  # see fastvlm_mlx/__init__.py
if TYPE_CHECKING:
    from fastvlm_mlx.adapters.files import write_adapter
    from fastvlm_mlx.evaluation.scoring import Score, score
    from fastvlm_mlx.train.data.features import FeatureStore
    from fastvlm_mlx.train.data.read import read_samples
    from fastvlm_mlx.train.data.samples import Sample
    from fastvlm_mlx.train.data.split import split
    from fastvlm_mlx.train.loop import TrainingSet
    from fastvlm_mlx.train.options import TrainOptions
    from fastvlm_mlx.train.run import TrainResult, train
    from fastvlm_mlx.train.training_set import prepare

_HOMES = {
    "FeatureStore": "train.data.features",
    "Sample": "train.data.samples",
    "Score": "evaluation.scoring",
    "TrainOptions": "train.options",
    "TrainResult": "train.run",
    "TrainingSet": "train.loop",
    "prepare": "train.training_set",
    "read_samples": "train.data.read",
    "score": "evaluation.scoring",
    "split": "train.data.split",
    "train": "train.run",
    "write_adapter": "adapters.files",
}

__all__ = [
    "FeatureStore",
    "Sample",
    "Score",
    "TrainOptions",
    "TrainResult",
    "TrainingSet",
    "prepare",
    "read_samples",
    "score",
    "split",
    "train",
    "write_adapter",
]

__getattr__ = resolver(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
