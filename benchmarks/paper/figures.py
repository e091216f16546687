"""The latencies that the FastVLM paper prints (arXiv 2412.13303), in milliseconds.

Measured by its authors on a MacBook Pro with M1 Max: the encoder through Core ML on
the Neural Engine, the language model with MLX on the GPU in float16. "TTFT is
estimated by adding the image encoding latency at a specific resolution to the LLM
prefilling latency for the associated visual tokens" (section 4).

The paper disagrees with itself: table 4 gives FastViTHD 235.6 ms at 1024 px and 122.6
at 768, tables 6, 10 and 12 give 116.3 and 54.8. Each table is compared with its own.
"""

from typing import NamedTuple


class Encode(NamedTuple):
    """One encoder at one resolution, and the paper's time for an image."""

    encoder: str
    resolution: int
    milliseconds: float


class Crops(NamedTuple):
    """`images` of `resolution` (tiles and overview) through one encoder."""

    encoder: str
    resolution: int
    images: int = 1


class System(NamedTuple):
    """One row of table 10: its encoders, and the visual tokens that are prefilled.

    The paper's `milliseconds` are (encoders, prefill, both). Projectors, and what else
    joins encoders, are in neither the paper's times nor ours.
    """

    name: str
    encoders: tuple[Crops, ...]
    tokens: int
    language: str
    milliseconds: tuple[float, float, float]

    @property
    def resolution(self) -> int:
        """Of its first encoder, in pixels."""
        return self.encoders[0].resolution


# The first row of each is what the others are compared with.
TABLE_1 = (
    Encode("FastViT (MCi2)", 768, 34.5),
    Encode("FastViT (MCi2)", 256, 3.0),
    Encode("ViT-L/14", 336, 127.4),
)
TABLE_3 = (
    Encode("FastViTHD", 224, 6.8),
    Encode("ViT-L/14", 224, 47.2),
    Encode("ConvNeXt-L", 320, 34.4),
)
TABLE_4 = (
    Encode("FastViTHD", 1024, 235.6),
    Encode("FastViTHD", 256, 10.1),
    Encode("FastViTHD", 512, 33.5),
    Encode("FastViTHD", 768, 122.6),
    Encode("ConvNeXt-L", 320, 34.4),
    Encode("ConvNeXt-L", 512, 71.9),
    Encode("ConvNeXt-XXL", 256, 89.9),
    Encode("ConvNeXt-XXL", 512, 397.1),
)
ENCODER_TABLES = {
    "Table 1: FastViT as an encoder": TABLE_1,
    "Table 3: encoders at the size of their pre-training": TABLE_3,
    "Table 4: FastViTHD and ConvNeXt by resolution": TABLE_4,
}

_Q05, _Q15, _Q7 = "Qwen2-0.5B", "Qwen2-1.5B", "Qwen2-7B"
_V7, _L8, _QW, _ML = "Vicuna-7B", "Llama-3-8B", "Qwen1.5-0.5B", "MobileLLaMA-1.4B"


def _hd(resolution: int, crops: int = 1) -> tuple[Crops, ...]:
    return (Crops("FastViTHD", resolution, crops),)


def _clip(resolution: int, crops: int = 1) -> tuple[Crops, ...]:
    return (Crops("ViT-L/14", resolution, crops),)


def _siglip(crops: int = 1) -> tuple[Crops, ...]:
    return (Crops("SigLIP-SO400M", 384, crops),)


def _convnext(resolution: int) -> tuple[Crops, ...]:
    return (Crops("ConvNeXt-L", resolution),)


# Its vision aggregator makes 576 tokens of all four.
_CAMBRIAN = (
    *_siglip(),
    Crops("ConvNeXt-XXL", 1024),
    Crops("DINOv2 ViT-L/14", 518),
    *_clip(336),
)
TABLE_10 = (
    System("FastVLM", _hd(1024), 256, _Q05, (116.3, 50.5, 166)),
    System("FastVLM (2x2)", _hd(1024, 5), 1280, _Q05, (581.5, 336.4, 918)),
    System("nanoLLaVA", _siglip(), 729, _QW, (272.1, 263.3, 535)),
    System("LLaVA-OneVision", _siglip(10), 7290, _Q05, (2721.4, 11402.4, 14124)),
    # The paper prints 458 both as its prefill and as its TTFT: the latter is taken.
    System("MobileVLM v2", _clip(336), 144, _ML, (127.4, 330.6, 458)),
    System("FastVLM", _hd(768), 144, _Q15, (54.8, 97.1, 152)),
    System("FastVLM", _hd(1024), 256, _Q15, (116.3, 116.1, 233)),
    System("FastVLM (2x2)", _hd(1024, 5), 1280, _Q15, (581.5, 681.7, 1263)),
    System("FastVLM", _hd(256), 16, _V7, (6.8, 143.4, 150)),
    System("FastVLM", _hd(768), 144, _V7, (54.8, 332.1, 387)),
    System("FastVLM", _hd(1024), 256, _V7, (116.3, 461.1, 577)),
    System("FastVLM", _hd(768), 144, _Q7, (54.8, 391.2, 446)),
    System("FastVLM", _hd(1024), 256, _Q7, (116.3, 524.5, 641)),
    System("FastVLM (2x2)", _hd(1024, 5), 1280, _Q7, (581.5, 3139.5, 3721)),
    System("LLaVA-1.5", _clip(336), 576, _V7, (127.4, 1170.0, 1297)),
    # ConvLLaVA's fifth stage makes a quarter of ConvNeXt's tokens; it is left out.
    System("ConvLLaVA", _convnext(768), 144, _V7, (164.3, 332.1, 496)),
    System("ConvLLaVA", _convnext(1024), 256, _V7, (696.1, 461.1, 1157)),
    System("ConvLLaVA", _convnext(1536), 576, _V7, (1569.7, 1170.0, 2740)),
    System("LLaVA-NeXT", _clip(336, 5), 2880, _L8, (637.0, 19709.7, 20347)),
    System(
        *("MiniGemini-HD", (*_convnext(1536), *_clip(672)), 2880, _L8),
        (2122.3, 19709.7, 21832),
    ),
    System("Cambrian-1", _CAMBRIAN, 576, _L8, (3861.4, 1223.6, 5085)),
)

# Systems of table 10 compared in the paper's text: the slower, the faster (name,
# resolution, language model), and the factor that the paper claims.
CLAIMS = (
    (("LLaVA-OneVision", 384, _Q05), ("FastVLM", 1024, _Q05), 85.0),
    (("LLaVA-1.5", 336, _V7), ("FastVLM", 768, _V7), 3.2),
    (("Cambrian-1", 384, _L8), ("FastVLM", 1024, _Q7), 7.9),
)
# Rows of table 10 that cannot be had here, and why.
LEFT_OUT = "InstructBLIP and ViTamin, whose encoders are not described here"
# Table 2 gives accuracies, no times: 62.6 without, 62.7 with AvgPool, 62.9 with DWConv.
MULTI_SCALE = ("FastViT (MCi2)", "FastViT, AvgPool", "FastViT, DWConv")
