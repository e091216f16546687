"""Options of a Core ML export, and checks of their values and combinations."""

from dataclasses import dataclass

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model.vlm import FastVLMModel

PRECISIONS = ("float16", "float32")
COMPRESSIONS = ("int8", "int8-block", "palette8", "palette6")
ATTENTIONS = ("batched", "per-head")

# 48 x 48 tokens; the attention matrix of more does not fit in a phone's memory.
MAX_RESOLUTION = 3072


@dataclass(frozen=True)
class CoreMLOptions:
    """Options of one export; the defaults suit the Neural Engine.

    Args:
        precision: `float16` or `float32`, of weights and arithmetic. float32 runs on
            CPU and GPU only.
        resolutions: pixels a side, multiples of 64. Several become functions
            `image_R` of one package that share their weights (iOS 18). By default
            the model's own.
        image_input: the input is a pixel buffer of bytes, not floats in 0..1.
        projector: the output is `image_embeddings` (language-model embeddings), not
            the encoder's `image_features`.
        compression: of the weights of 1x1 convolutions: `int8`, `int8-block`,
            `palette8`, `palette6` or None.
        attention: `batched` (CPU, GPU) or `per-head` (Neural Engine).
        query_chunk: queries at a time, with `per-head`.
        norm_prescale: LayerNorm's input is divided by this power of two.
    Raises:
        OptionError: an impossible value or combination.
    """

    precision: str = "float16"
    resolutions: tuple[int, ...] = ()
    image_input: bool = False
    projector: bool = False
    compression: str | None = None
    attention: str = "batched"
    query_chunk: int | None = None
    norm_prescale: int = 16

    def __post_init__(self):
        for option, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--compress", self.compression, (None, *COMPRESSIONS)),
            ("--attention", self.attention, ATTENTIONS),
        ):
            if value not in known:
                names = ", ".join(filter(None, known))
                raise OptionError(f"{option} {value}: unknown; use {names}")
        if self.compression and self.precision == "float32":
            raise OptionError(
                f"--compress {self.compression}: is for float16;"
                " leave out --precision float32"
            )
        if self.query_chunk is not None and self.attention != "per-head":
            raise OptionError(
                f"--query-chunk {self.query_chunk}: needs --attention per-head"
            )
        if self.query_chunk is not None and self.query_chunk < 1:
            raise OptionError(f"--query-chunk {self.query_chunk}: use 1 or more")
        if self.norm_prescale < 1 or self.norm_prescale & (self.norm_prescale - 1):
            raise OptionError(
                f"--norm-prescale {self.norm_prescale}: use a power of two, or 1"
            )
        if len(set(self.resolutions)) != len(self.resolutions):
            sizes = ",".join(map(str, self.resolutions))
            raise OptionError(f"--resolution {sizes}: name each size once")

    @property
    def modern(self) -> bool:
        """Whether the package needs iOS 18 or macOS 15; else iOS 17 or macOS 14."""
        return len(self.resolutions) > 1 or self.compression == "int8-block"

    def sizes(self, model: FastVLMModel) -> tuple[int, ...]:
        """The resolutions to export `model` at, the default function's first.

        Raises:
            OptionError: a size that the encoder's stride does not divide.
            CheckpointError: the model lacks a part that is to be exported.
        """
        vision = model.config.vision
        if vision is None:
            raise CheckpointError(
                f"{model.config.source.get('name', 'this model')}: has no vision"
                " encoder to export; convert it with --encoder-from first"
            )
        if self.projector and model.projector is None:
            raise OptionError("--projector: this checkpoint has none; leave it out")
        own = model.config.image_size
        chosen = self.resolutions or (own,)
        for size in chosen:
            if size < vision.stride or size % vision.stride or size > MAX_RESOLUTION:
                raise OptionError(
                    f"--resolution {size}: use a multiple of {vision.stride}"
                    f" up to {MAX_RESOLUTION}"
                )
        # The first is the default function, the one that Apple's app runs.
        return tuple(sorted(chosen, key=lambda size: (size != own, size)))
