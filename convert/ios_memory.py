"""What a model needs of an iPhone's memory, and which iPhones give an app that much.

An estimate, not a measurement: weights are counted exactly, the rest by shapes. iOS
ends an app above a share of the memory; about half is a common report without the
`increased-memory-limit` entitlement, about two thirds with it. Neither is documented.
"""

from dataclasses import dataclass

from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.model.config import ModelConfig

# Memory by class of iPhone, in GB: Apple does not publish it; teardowns agree.
PHONES = {
    "4 GB (iPhone 12, 13)": 4,
    "6 GB (iPhone 14, 15)": 6,
    "8 GB (iPhone 15 Pro, 16)": 8,
    "12 GB (iPhone 17 Pro)": 12,
}
PLAIN_SHARE, ENTITLED_SHARE = 0.5, 0.66

# Prompt and answer beside the image, in tokens.
CONVERSATION = 512

# MLX, the tokenizer's tables, the camera and the interface.
APP_BYTES = 200_000_000


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by what needs them."""

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
        """One line per class of iPhone that does not give an app this much."""
        found = []
        for phone, memory in PHONES.items():
            plain, entitled = (
                int(share * memory * 1e9) for share in (PLAIN_SHARE, ENTITLED_SHARE)
            )
            if self.peak > entitled:
                found.append(
                    f"{phone}: {format_size(self.peak)} is above the"
                    f" {format_size(entitled)} an app can get; use --q-bits 4 or a"
                    " smaller model"
                )
            elif self.peak > plain:
                found.append(
                    f"{phone}: {format_size(self.peak)} needs the"
                    f" increased-memory-limit entitlement (above {format_size(plain)})"
                )
        return found

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


def estimate(
    config: ModelConfig, text_bytes: int, package_bytes: int, resolution: int
) -> Estimate:
    """What the app needs to answer about one image of `resolution` pixels.

    The largest maps of the encoder are the widened ones of its first stage, in and out
    of GELU in float16; the cache holds keys and values of every layer in float16.
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
    # The first attention stage stands one or more halvings before the last.
    first = 2 ** (len(heads) - 2) * side if len(heads) > 1 else side // 2
    attention = 2 * 2 * heads[0] * first**4 if heads else 0
    width = text.num_key_value_heads * text.head_dim
    tokens = vision.tokens(resolution) + CONVERSATION
    cache = 2 * 2 * text.num_hidden_layers * width * tokens
    return Estimate(text_bytes, package_bytes, max(maps, attention), cache)
