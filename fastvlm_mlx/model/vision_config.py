"""VisionConfig: the sizes of a FastViT encoder, each checked."""

from dataclasses import dataclass

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.validation import (
    MAX_LAYERS,
    MAX_WIDTH,
    check_bool,
    check_choice,
    check_count,
    check_counts,
    check_number,
)

MULTI_SCALE = ("avgpool", "dwconv")
TOKEN_MIXERS = ("repmixer", "attention")


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
        """Visual tokens of one square image of `resolution` pixels a side."""
        return (resolution // self.stride) ** 2


def check_vision(config: VisionConfig):
    """Sizes that make a network: see `VisionConfig` for what they mean."""
    check_counts("vision.embed_dims", config.embed_dims)
    stages = len(config.embed_dims)
    check_count("the number of vision stages", stages, 1, 8)
    for name, lowest, highest in (
        ("depths", 1, MAX_LAYERS),
        ("mlp_dims", 1, MAX_WIDTH),
        ("pos_emb_kernels", 0, 63),
        ("downsample_se_dims", 0, MAX_WIDTH),
    ):
        check_counts(f"vision.{name}", getattr(config, name), lowest, highest)
    for name in (
        "depths",
        "mlp_dims",
        "token_mixers",
        "pos_emb_kernels",
        "downsample_se_dims",
    ):
        if len(getattr(config, name)) != stages:
            raise CheckpointError(
                f"config.json: vision.{name} has {len(getattr(config, name))} entries"
                f" for {stages} stages; give one per stage"
            )
    for mixer in config.token_mixers:
        check_choice("vision.token_mixers", mixer, TOKEN_MIXERS)
    for name in ("downsample_kernel", "repmixer_kernel", "ffn_kernel"):
        check_count(f"vision.{name}", getattr(config, name), 1, 63)
    kernels = (config.downsample_kernel, config.repmixer_kernel, config.ffn_kernel)
    for kernel in (*kernels, *(k for k in config.pos_emb_kernels if k)):
        if kernel % 2 == 0:
            raise CheckpointError(
                f"the encoder has a {kernel} x {kernel} kernel, which has no centre;"
                " the checkpoint is of another network"
            )
    for name in ("head_dim", "out_dim", "out_se_dim"):
        check_count(f"vision.{name}", getattr(config, name))
    check_number("vision.layer_norm_eps", config.layer_norm_eps, 1)
    check_bool("vision.layer_norm", config.layer_norm)
    _check_widths(config)
    _check_multi_scale(config)


def _check_widths(config: VisionConfig):
    widths = (*config.embed_dims, config.out_dim)
    for width, following in zip(widths, widths[1:], strict=False):
        if following % width:
            raise CheckpointError(
                f"the encoder widens {width} channels to {following}, which is no"
                " multiple; the checkpoint's stages do not belong together"
            )
    for mixer, width in zip(config.token_mixers, config.embed_dims, strict=True):
        if mixer == "attention" and width % config.head_dim:
            raise CheckpointError(
                f"the encoder's attention is {width} wide, which heads of"
                f" {config.head_dim} do not divide; the checkpoint is of another"
                " network"
            )


def _check_multi_scale(config: VisionConfig):
    stages = config.multi_scale_stages
    if config.multi_scale is None:
        if stages != ():
            raise CheckpointError(
                f"config.json: mm_multi_scale_stages is {list(stages)!r:.200}, but"
                f" mm_multi_scale is not set; use {' or '.join(MULTI_SCALE)}"
            )
        return
    check_choice("mm_multi_scale", config.multi_scale, MULTI_SCALE)
    check_counts("mm_multi_scale_stages", stages, 0, len(config.embed_dims) - 2)
    if not stages or len(set(stages)) != len(stages):
        raise CheckpointError(
            f"config.json: mm_multi_scale_stages is {list(stages)}; name each stage"
            " to pool once"
        )
