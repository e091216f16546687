"""Reads how a checkpoint's images are prepared: size, fit and tiling."""

import ast
import math
import re
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.vision_config import VisionConfig

# Pixels a side of Apple's releases; used where no file of the checkpoint has a size.
DEFAULT_SIZE = 1024
MAX_SIZE = 1 << 14


def read_image_config(
    config: dict[str, Any], folder: Path, vision: VisionConfig | None
) -> dict[str, Any]:
    """The fields of ModelConfig for images: `image_size`, `fit`, `grid_pinpoints`.

    The size, in pixels a side, is the first of: `image_size`, the number at the end
    of `mm_vision_tower` (mobileclip_l_1024), the side of `image_seq_length` tokens,
    the crop size of preprocessor_config.json.

    Args:
        config: the checkpoint's `config.json`.
        folder: where preprocessor_config.json may be.
        vision: the encoder, whose stride the size must be a multiple of.
    Raises:
        CheckpointError: a size that the encoder cannot take, or malformed pinpoints.
    """
    stride = vision.stride if vision else 64
    size, origin = _size(config, folder, stride)
    if type(size) is not int or not 0 < size <= MAX_SIZE or size % stride:
        raise CheckpointError(
            f"{origin} gives images of {size!r:.200} pixels, where a multiple of"
            f" {stride} up to {MAX_SIZE} is needed; get the right file"
        )
    stretched = config.get("image_aspect_ratio") in ("square", "stretch")
    return {
        "image_size": size,
        "fit": "stretch" if stretched else "pad",
        "grid_pinpoints": _grid_pinpoints(config.get("image_grid_pinpoints")),
    }


def _size(config: dict[str, Any], folder: Path, stride: int) -> tuple[Any, str]:
    """The size, unchecked, and the file and field it is from."""
    if config.get("image_size") is not None:
        return config["image_size"], "config.json: image_size"
    tower = re.search(r"_(\d{1,9})$", str(config.get("mm_vision_tower")))
    if tower:
        return int(tower[1]), "config.json: mm_vision_tower"
    tokens = config.get("image_seq_length")
    if tokens is not None:
        origin = "config.json: image_seq_length"
        if type(tokens) is not int or not 0 < tokens <= MAX_SIZE:
            raise CheckpointError(
                f"{origin} is {tokens!r:.200}, not a number of tokens;"
                " get the right config.json"
            )
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise CheckpointError(
                f"{origin} is {tokens}, which is no square image's;"
                " get the right config.json"
            )
        return side * stride, origin
    if (folder / "preprocessor_config.json").is_file():
        crop = read_json(folder / "preprocessor_config.json").get("crop_size")
        if isinstance(crop, dict):
            crop = crop.get("height")
        if crop is not None:
            return crop, "preprocessor_config.json: crop_size"
    return DEFAULT_SIZE, "the default"


def _grid_pinpoints(value: Any) -> tuple[tuple[int, int], ...]:
    """LLaVA's `image_grid_pinpoints`: a list of (width, height), or its repr."""
    if value is None:
        return ()
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
        found = tuple((width, height) for width, height in pairs)
        if all(type(n) is int and 0 < n < 1 << 16 for pair in found for n in pair):
            return found
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise CheckpointError(
        f"config.json: image_grid_pinpoints is {value!r:.200}; give pairs of pixels"
        " such as [[512, 512], [1024, 512]]"
    )
