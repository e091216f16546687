"""Estimates the peak memory of a model on an iPhone, and which iPhones have enough.

Weights are counted exactly, the rest by shapes; nothing was measured on a phone. iOS
ends an app above a share of the memory: half without the `increased-memory-limit`
entitlement and two thirds with it are common reports, neither is documented.
"""

from dataclasses import dataclass

from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.model.config import ModelConfig

# In GB. Apple does not publish the memory of an iPhone; teardowns agree on it.
IPHONE_MEMORY_GB = {
    "4 GB (iPhone 12, 13)": 4,
    "6 GB (iPhone 14, 15)": 6,
    "8 GB (iPhone 15 Pro, 16)": 8,
    "12 GB (iPhone 17 Pro)": 12,
}
DEFAULT_SHARE, ENTITLED_SHARE = 0.5, 0.66

# Tokens of prompt and answer, the image not counted.
CONVERSATION_TOKENS = 512

# MLX, the tokenizer's tables, the camera and the interface.
APP_BYTES = 200_000_000


# The 0.5B model in float16 was ended for its memory on iPhone 13 mini, 14 Pro Max and
# 16 Pro (apple/ml-fastvlm issues 8, 23 and 24), where the estimate fits.
REPORTED_BYTES = 900_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak.

    Attributes:
        language_model: its weights.
        encoder: the Core ML package.
        activations: the encoder's largest maps.
        cache: the KV cache.
        app: everything else.
    """

    language_model: int
    encoder: int
    activations: int
    cache: int
    app: int = APP_BYTES

    @property
    def peak(self) -> int:
        return (
            self.language_model
            + self.encoder
            + self.activations
            + self.cache
            + self.app
        )

    def warnings(self) -> list[str]:
        """One line per class of iPhone that does not give an app this much, and one
        where iPhones were reported to give less than estimated."""
        lines = []
        if self.language_model >= REPORTED_BYTES:
            lines.append(
                f"a language model of {format_size(self.language_model)}: apps with the"
                " 0.5B model in float16, 1 GB, were ended for their memory on iPhone 13"
                " mini, 14 Pro Max and 16 Pro (ml-fastvlm issues 8, 23, 24), more than"
                " this estimate says; use --q-bits 8 or 4"
            )
        for phone, memory in IPHONE_MEMORY_GB.items():
            default, entitled = (
                int(share * memory * 1e9) for share in (DEFAULT_SHARE, ENTITLED_SHARE)
            )
            if self.peak > entitled:
                lines.append(
                    f"{phone}: {format_size(self.peak)} is above the"
                    f" {format_size(entitled)} an app can get; use --q-bits 4 or a"
                    " smaller model"
                )
            elif self.peak > default:
                lines.append(
                    f"{phone}: {format_size(self.peak)} needs the"
                    " increased-memory-limit entitlement"
                    f" (above {format_size(default)})"
                )
        return lines

    def __str__(self) -> str:
        parts = (
            ("language model", self.language_model),
            ("encoder", self.encoder),
            ("encoder's maps", self.activations),
            ("KV cache", self.cache),
            ("app", self.app),
        )
        listed = ", ".join(f"{name} {format_size(size)}" for name, size in parts)
        return f"{format_size(self.peak)} at the peak, estimated ({listed})"


def estimate_memory(
    config: ModelConfig, text_bytes: int, package_bytes: int, resolution: int
) -> MemoryEstimate:
    """Estimates the memory to answer about one image.

    The encoder's largest maps are those of the first stage's MLP, before and after
    GELU, or the first attention matrix, in float16. The KV cache is in float16.

    Args:
        config: of a model with an encoder and a language model.
        text_bytes: bytes of the language model's and projector's weights.
        package_bytes: bytes of the Core ML package.
        resolution: pixels a side.
    """
    vision, text = config.vision, config.text
    assert vision is not None and text is not None
    positions = (resolution // 4) ** 2
    maps = 2 * 2 * positions * vision.mlp_dims[0]
    side = resolution // (vision.stride // 2)
    heads = [
        vision.embed_dims[i] // vision.head_dim
        for i, mixer in enumerate(vision.token_mixers)
        if mixer == "attention"
    ]
    # Each attention stage halves the grid of the one before it.
    first = 2 ** (len(heads) - 2) * side if len(heads) > 1 else side // 2
    attention = 2 * 2 * heads[0] * first**4 if heads else 0
    width = text.num_key_value_heads * text.head_dim
    tokens = vision.tokens(resolution) + CONVERSATION_TOKENS
    cache = 2 * 2 * text.num_hidden_layers * width * tokens
    return MemoryEstimate(text_bytes, package_bytes, max(maps, attention), cache)
