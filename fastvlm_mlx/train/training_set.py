"""`prepare`: samples to what `train` takes, rows of tokens and features of images."""

from collections.abc import Sequence

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.train.data.features import (
    FeatureStore,
    ImageProgress,
    features_folder,
)
from fastvlm_mlx.train.data.rows import build_rows
from fastvlm_mlx.train.data.samples import Sample
from fastvlm_mlx.train.distributed import Processes
from fastvlm_mlx.train.loop import TrainingSet


def prepare(
    model: FastVLMModel,
    samples: Sequence[Sample],
    held_out: Sequence[Sample] = (),
    *,
    store: FeatureStore | None = None,
    on_progress: ImageProgress | None = None,
) -> TrainingSet:
    """Encodes the images of `samples` and `held_out`, each once, and their texts.

    Under `mlx.launch` the processes share the images.

    Args:
        model: encodes them.
        samples: to learn from, as `read_samples` and `split` give them.
        held_out: to measure with.
        store: keeps the features; None: in this machine's cache, with the images shown
            as the model's config says.
        on_progress: called with (images done, images in all).
    Raises:
        CheckpointError: the model lacks its encoder or its language model.
        DataError: images cannot be opened, or samples are too long; the first few are
            named and the rest counted.
        OptionError: the features cannot be written.
    """
    if model.language_model is None:
        raise CheckpointError(
            "this checkpoint is an encoder alone and has no language model to train;"
            " give a whole FastVLM checkpoint"
        )
    if store is None:
        store = FeatureStore(features_folder(), model)
    processes = Processes()
    store.prepare(
        [*samples, *held_out],
        on_progress,
        rank=processes.rank,
        ranks=processes.count,
    )
    config = model.config
    rows, measured = (
        build_rows(
            part,
            model.tokenizer,
            store.count_tokens,
            config.context_size,
            config.template,
        )
        for part in (samples, held_out)
    )
    return TrainingSet(rows, measured, store)
