"""Writes `metadata.json` of the folder that apple/coreai-models' runner reads.

The keys are those of schema 0.2 in `swift/Sources/CoreAIShared/Bundle` and
`CoreAILanguageModels/Bundle` at
https://github.com/apple/coreai-models/tree/86b363d
"""

from typing import Any

from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.outputs import CONVERTER_KEY, converter
from fastvlm_mlx.model.config import ModelConfig

# Our name of a way to make an image square, and the runner's.
STRATEGIES = {"pad": "pad", "crop": "center_crop", "stretch": "stretch"}


def bundle_metadata(
    name: str,
    config: ModelConfig,
    options: CoreAIOptions,
    *,
    assets: dict[str, str],
    size: int,
    image_id: int,
    vocabulary: int,
) -> dict[str, Any]:
    """The runner's metadata of one folder.

    Args:
        name: of the model.
        assets: file names by role: `main`, `vision` and `embedding`.
        size: pixels a side of the encoder's function `main`.
        image_id: the token whose places the visual embeddings take.
        vocabulary: rows of the table of embeddings, and logits of the decoder.
    """
    assert config.vision is not None  # the caller checked
    source = str(config.source.get("name", name))
    return {
        "metadata_version": "0.2",
        "kind": "vlm",
        "name": name,
        "assets": assets,
        "language": {
            "tokenizer": source,
            "vocab_size": vocabulary,
            "max_context_length": options.context,
            "embedded_tokenizer": True,
            "function_map": {"main": ["main"]},
        },
        "vision": {
            "image_size": size,
            "patch_size": config.vision.stride,
            "image_token_count": config.vision.tokens(size),
            "image_token_id": image_id,
            # The runner divides by 255 itself: pixels in 0..1, as FastVLM takes them.
            "image_mean": [0.0, 0.0, 0.0],
            "image_std": [1.0, 1.0, 1.0],
            "rescale_factor": 1.0,
            "image_strategy": STRATEGIES[config.fit],
            "include_image_info": False,
        },
        "source": {"hf_model_id": source, "model_definition": "mlx"},
        "compression": options.compression,
        "user_data": {
            CONVERTER_KEY: converter(),
            "precision": options.precision,
            "projector": "yes" if options.projector else "no",
        },
    }
