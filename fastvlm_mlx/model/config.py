"""ModelConfig: the content of a converted folder's `config.json`, checked.

A converted folder's `config.json` is `ModelConfig.to_dict()`. Field names are the
file's keys; the defaults are Apple's released FastVLM (FastViTHD at 1024 px).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.validation import (
    check_choice,
    check_count,
    check_counts,
)
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.processing.image_options import FITS

# Marks a folder written by our converter. Raised when old folders cannot be read.
FORMAT = "fastvlm-mlx"
FORMAT_VERSION = 1

PROJECTORS = ("identity", "linear", "mlp")
TEMPLATES = ("qwen2", "vicuna")


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
    """The config of one model folder.

    `vision`, `projector` or `text` is None where the folder lacks that part, as for an
    encoder alone or a model whose encoder is a Core ML package.
    """

    vision: VisionConfig | None = None
    projector: ProjectorConfig | None = None
    text: TextConfig | None = None
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

    @property
    def context_size(self) -> int:
        """Tokens that a conversation may hold: `context_length`, or the positions the
        language model was built for if they are fewer."""
        positions = self.text and self.text.max_position_embeddings
        return min(self.context_length, positions or self.context_length)

    def to_dict(self) -> dict[str, Any]:
        """The content of a converted folder's `config.json`."""
        return {
            "model_type": FORMAT,
            "format_version": FORMAT_VERSION,
            **dataclasses.asdict(self),
            "text": self.text and self.text.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Reads `to_dict`'s form; unknown keys are ignored.

        Raises:
            CheckpointError: a value is of the wrong kind or cannot be honoured.
        """
        if values.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"config.json: format_version {values.get('format_version')!r:.200} is"
                f" not {FORMAT_VERSION}; convert the checkpoint again"
            )
        try:
            known = _known(cls, values)
            for name, kind in (
                ("vision", VisionConfig),
                ("projector", ProjectorConfig),
            ):
                if known.get(name) is not None:
                    known[name] = kind(**_known(kind, known[name]))
            if known.get("text") is not None:
                known["text"] = TextConfig.from_dict(_object("text", known["text"]))
            known["grid_pinpoints"] = tuple(
                tuple(pair) for pair in known.get("grid_pinpoints", ())
            )
            return cls(**known)
        except (TypeError, AttributeError) as fault:
            raise CheckpointError(
                f"config.json: {fault}; convert the checkpoint again"
            ) from fault


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200}, not an object;"
            " convert the checkpoint again"
        )
    return value


def _known(kind: type, values: Any) -> dict[str, Any]:
    values = _object(kind.__name__, values)
    names = {f.name for f in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }


def check_projector(config: ProjectorConfig):
    check_choice("projector.type", config.type, PROJECTORS)
    check_counts("projector.dims", config.dims)
    layers = max(0, len(config.dims) - 1)
    lowest = {"identity": 0, "linear": 1, "mlp": 2}[config.type]
    if layers < lowest or (config.type != "mlp" and layers > lowest):
        raise CheckpointError(
            f"config.json: a projector of type {config.type} cannot have {layers}"
            " layers; get the right config.json"
        )


def check_model(config: ModelConfig):
    """The parts must fit each other: visual width, projector, language model."""
    for name in ("quantization", "source"):
        if getattr(config, name) is not None:
            _object(name, getattr(config, name))
    check_count("image_size", config.image_size, 1, 1 << 16)
    check_count("context_length", config.context_length, 1, 1 << 31)
    check_choice("fit", config.fit, FITS)
    check_choice("template", config.template, TEMPLATES)
    for pair in config.grid_pinpoints:
        check_counts("image_grid_pinpoints", pair, 1, 1 << 16)
        if len(pair) != 2:
            check_count("the length of an image_grid_pinpoints entry", len(pair), 2, 2)
    package = config.coreml_encoder
    if package is not None and (
        not isinstance(package, str)
        or not package.endswith(".mlpackage")
        or "/" in package
    ):
        raise CheckpointError(
            f"config.json: coreml_encoder is {package!r:.200}, not the name of a"
            " .mlpackage beside it; convert the checkpoint again"
        )
    if config.vision is not None and config.image_size % config.vision.stride:
        raise CheckpointError(
            f"config.json: the image's size {config.image_size} is not a multiple of"
            f" the encoder's {config.vision.stride}; get the right config.json"
        )
    _check_joints(config)


def _check_joints(config: ModelConfig):
    width, source = None, ""
    if config.vision is not None:
        width, source = config.vision.feature_dim, "the encoder's features"
    if config.projector is not None and config.projector.dims:
        if width not in (None, config.projector.dims[0]):
            raise CheckpointError(
                f"{source} are {width} wide, but the projector takes"
                f" {config.projector.dims[0]}; these parts are of different checkpoints"
            )
        width, source = config.projector.dims[-1], "the projector's tokens"
    if config.projector is not None and config.text is not None:
        hidden = config.text.hidden_size
        if width not in (None, hidden):
            raise CheckpointError(
                f"{source} are {width} wide, but the language model's embeddings"
                f" {hidden}; these parts are of different checkpoints"
            )
