"""What a model is made of: the sizes of its parts, read from a `config.json`.

A converted folder's `config.json` is `ModelConfig.to_dict()`. Field names are the
file's keys; the defaults are Apple's released FastVLM (FastViTHD at 1024 px).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fastvlm_mlx.config_checks import check_model, check_projector, check_vision
from fastvlm_mlx.errors import CheckpointError

# Marks a folder written by our converter. Raised when old folders cannot be read.
FORMAT = "fastvlm-mlx"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a FastViT encoder in its inference form, one entry per stage.

    `downsample_se_dims[i]` and `pos_emb_kernels[i]` are 0 where stage `i` has no
    squeeze-excite or no position encoding. `multi_scale_stages` lists the stages
    whose maps are pooled to the last grid and concatenated after the last features.
    """

    depths: tuple[int, ...] = (2, 12, 24, 4, 2)
    embed_dims: tuple[int, ...] = (96, 192, 384, 768, 1536)
    mlp_dims: tuple[int, ...] = (384, 768, 1536, 3072, 6144)
    token_mixers: tuple[str, ...] = ("repmixer",) * 3 + ("attention",) * 2
    pos_emb_kernels: tuple[int, ...] = (0, 0, 0, 7, 7)
    downsample_se_dims: tuple[int, ...] = (0, 0, 0, 0, 0)
    downsample_kernel: int = 7
    repmixer_kernel: int = 3
    ffn_kernel: int = 7
    layer_norm: bool = True
    layer_norm_eps: float = 1e-5
    head_dim: int = 32
    out_dim: int = 3072
    out_se_dim: int = 192
    multi_scale: str | None = None
    multi_scale_stages: tuple[int, ...] = ()

    def __post_init__(self):
        check_vision(self)

    @property
    def stride(self) -> int:
        """Pixels per token along one side: the stem's 4, then 2 a stage."""
        return 4 * 2 ** (len(self.embed_dims) - 1)

    @property
    def feature_dim(self) -> int:
        """Width of one visual token before the projector."""
        return self.out_dim + sum(self.embed_dims[s] for s in self.multi_scale_stages)

    def tokens(self, resolution: int) -> int:
        """Visual tokens of one square picture of `resolution` pixels a side."""
        return (resolution // self.stride) ** 2


@dataclass(frozen=True)
class ProjectorConfig:
    """The connector: `dims` runs from the visual width to the language model's.

    `mlp` puts GELU between its layers; `linear` is one layer; `identity` has none.
    """

    type: str = "mlp"
    dims: tuple[int, ...] = (3072, 896, 896)

    def __post_init__(self):
        check_projector(self)


@dataclass(frozen=True)
class ModelConfig:
    """One model folder. `vision`, `projector` or `text` is None where it has no such
    part: a bare encoder, or a language model whose encoder is a Core ML package."""

    vision: VisionConfig | None = None
    projector: ProjectorConfig | None = None
    text: dict[str, Any] | None = None
    image_size: int = 1024
    fit: str = "pad"
    grid_pinpoints: tuple[tuple[int, int], ...] = ()
    template: str = "qwen2"
    context_length: int = 8192
    coreml_encoder: str | None = None
    quantization: dict[str, Any] | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_model(self)

    def to_dict(self) -> dict[str, Any]:
        """The content of a converted folder's `config.json`."""
        return {
            "model_type": FORMAT,
            "format_version": FORMAT_VERSION,
            **dataclasses.asdict(self),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Reads `to_dict`'s form; unknown keys are ignored.

        Raises:
            CheckpointError: a value is of the wrong kind or cannot be honoured.
        """
        if values.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"config.json: format_version {values.get('format_version')!r} is not"
                f" {FORMAT_VERSION}; convert the checkpoint again"
            )
        try:
            known = _known(cls, values)
            for name, kind in (
                ("vision", VisionConfig),
                ("projector", ProjectorConfig),
            ):
                if known.get(name) is not None:
                    known[name] = kind(**_known(kind, known[name]))
            known["grid_pinpoints"] = tuple(
                tuple(pair) for pair in known.get("grid_pinpoints", ())
            )
            return cls(**known)
        except (TypeError, AttributeError) as fault:
            raise CheckpointError(
                f"config.json: {fault}; convert the checkpoint again"
            ) from fault


def _known(kind: type, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise CheckpointError(
            f"config.json: {kind.__name__} is {values!r:.200}, not an object;"
            " convert the checkpoint again"
        )
    names = {f.name for f in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }
