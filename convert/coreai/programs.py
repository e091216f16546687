"""Builds the programs of an export: the encoder, and the table of embeddings.

    vision.aimodel   images (1, 3, R, R) float32 -> image_embeddings (1, tokens, hidden)
    embed.aimodel    input_ids (1, n) int32 -> embeddings (1, n, hidden)

The names of inputs are free: Apple's runner takes the first of each.
"""

from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreai.emitter import CoreAIEmitter
from fastvlm_mlx.convert.coreai.functions import ANY, add_function
from fastvlm_mlx.convert.coreai.options import CoreAIOptions, function_name
from fastvlm_mlx.convert.encoder_walk import EMBEDDINGS, FEATURES, IMAGES, EncoderWalk
from fastvlm_mlx.coreai_runtime import import_coreai
from fastvlm_mlx.model.vlm import FastVLMModel

IDS, ROWS = "input_ids", "embeddings"


def vision_program(
    model: FastVLMModel, options: CoreAIOptions, sizes: tuple[int, ...]
) -> tuple[Any, list[str]]:
    """A Core AI program of one function per size, and warnings about its weights."""
    ops = import_coreai()
    tower, config = model.vision_tower, model.config
    assert tower is not None and config.vision is not None  # the caller checked
    projector = model.projector if options.projector else None
    width = config.vision.feature_dim if projector is None else projector_width(model)
    output = FEATURES if projector is None else EMBEDDINGS
    dtype = np.dtype(options.precision).type
    emitter = CoreAIEmitter(options)
    walk = EncoderWalk(emitter)

    def encode(images: Any) -> Any:
        x = images if dtype == np.float32 else ops.cast(images, dtype)
        x = walk.encoder(tower, x)
        x = x if projector is None else walk.projector(projector, x)
        # [1, C, H, W] -> [1, H * W, C]
        _, dim, height, wide = x.type.shape
        x = ops.reshape(x, np.array([1, dim, height * wide], np.int32))
        return ops.transpose(x, np.array([0, 2, 1], np.uint32))

    module = ops.Module.create()
    with module:
        for size in sizes:
            add_function(
                encode,
                function_name(size, sizes),
                {IMAGES: ((1, 3, size, size), np.float32)},
                (output, ((1, config.vision.tokens(size), width), dtype)),
            )
    return ops.AIProgram(module), list(dict.fromkeys(emitter.warnings))


def projector_width(model: FastVLMModel) -> int:
    assert model.config.projector is not None  # the caller checked
    return model.config.projector.dims[-1]


def embed_program(table: np.ndarray) -> Any:
    """A Core AI program that looks rows of `table` (vocabulary, hidden) up."""
    ops = import_coreai()

    def embed(input_ids: Any) -> Any:
        # [1, n] -> [1, n, 1]: each id is the index of a row
        return ops.gather_nd(table, ops.expand_dims(input_ids, np.array([2], np.int32)))

    module = ops.Module.create()
    with module:
        rows = ((1, ANY, table.shape[1]), table.dtype.type)
        add_function(embed, "main", {IDS: ((1, ANY), np.int32)}, (ROWS, rows))
    return ops.AIProgram(module)
