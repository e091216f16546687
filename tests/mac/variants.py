"""Every variant of the Core ML package that an export can write."""

from pathlib import Path

from fastvlm_mlx.convert.coreml.options import COMPRESSIONS, CoreMLOptions
from fastvlm_mlx.convert.to_coreml import write_package
from fastvlm_mlx.model.vlm import FastVLMModel

VARIANTS = {
    "float16": CoreMLOptions(),
    "float32": CoreMLOptions(precision="float32"),
    "per_head": CoreMLOptions(attention="per-head"),
    "chunks": CoreMLOptions(attention="per-head", query_chunk=7),
    "image_input": CoreMLOptions(image_input=True),
    "projector": CoreMLOptions(projector=True),
    "two_sizes": CoreMLOptions(resolutions=(64, 128)),
    **{name: CoreMLOptions(compression=name) for name in COMPRESSIONS},
    "two_sizes_palette6": CoreMLOptions(resolutions=(64, 128), compression="palette6"),
}


def write(model: FastVLMModel, name: str, folder: Path) -> Path:
    """Writes the variant into `folder`, without a comparison."""
    options, package = VARIANTS[name], folder / f"{name}.mlpackage"
    write_package(model, package, options, options.sizes(model), lambda line: None)
    return package
