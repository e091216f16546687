"""Which values a config may hold; everything else is refused before it does harm.

A config comes from a download or an editor. A number of the wrong kind would fail
deep in MLX, and a number too large would build layers until memory ends.
"""

from typing import TYPE_CHECKING, Any

from fastvlm_mlx.errors import CheckpointError

if TYPE_CHECKING:
    from fastvlm_mlx.config import ModelConfig, ProjectorConfig, VisionConfig

PROJECTORS = ("identity", "linear", "mlp")
MULTI_SCALE = ("avgpool", "dwconv")
TEXT_MODELS = ("qwen2", "llama")
TOKEN_MIXERS = ("repmixer", "attention")
FITS = ("pad", "crop", "stretch")
TEMPLATES = ("qwen2", "vicuna")

# Ten times the largest published model.
MAX_LAYERS = 1000
MAX_WIDTH = 1 << 20


def check_count(name: str, value: Any, lowest: int = 1, highest: int = MAX_WIDTH):
    """Refuses what is not a whole number from `lowest` to `highest`."""
    if type(value) is not int or not lowest <= value <= highest:
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200} where a whole number from {lowest}"
            f" to {highest} is needed; get the right config.json"
        )


def check_counts(name: str, values: Any, lowest: int = 1, highest: int = MAX_WIDTH):
    if not isinstance(values, tuple):
        raise CheckpointError(
            f"config.json: {name} is {values!r:.200} where a list is needed;"
            " get the right config.json"
        )
    for index, value in enumerate(values):
        check_count(f"{name}[{index}]", value, lowest, highest)


def check_number(name: str, value: Any, highest: float = 1e300):
    """Refuses what is not a number above 0 and at most `highest` (NaN is neither)."""
    if type(value) not in (int, float) or not 0 < value <= highest:
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200} where a number above 0 is needed;"
            " get the right config.json"
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]):
    if not isinstance(value, str) or value not in choices:
        raise CheckpointError(
            f"config.json: {name} {value!r:.200} is unknown; use one of"
            f" {', '.join(choices)}"
        )


def check_vision(config: "VisionConfig"):
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
    if not isinstance(config.layer_norm, bool):
        check_choice("vision.layer_norm", config.layer_norm, ("true", "false"))
    _check_widths(config)
    _check_multi_scale(config)


def _check_widths(config: "VisionConfig"):
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


def _check_multi_scale(config: "VisionConfig"):
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


def check_projector(config: "ProjectorConfig"):
    check_choice("projector.type", config.type, PROJECTORS)
    check_counts("projector.dims", config.dims)
    layers = max(0, len(config.dims) - 1)
    lowest = {"identity": 0, "linear": 1, "mlp": 2}[config.type]
    if layers < lowest or (config.type != "mlp" and layers > lowest):
        raise CheckpointError(
            f"config.json: a projector of type {config.type} cannot have {layers}"
            " layers; get the right config.json"
        )


def check_text(text: dict[str, Any]):
    """The arguments of an mlx-lm model: whole, finite and of sizes that fit."""
    check_choice("the language model", text.get("model_type"), TEXT_MODELS)
    for name in ("hidden_size", "intermediate_size"):
        check_count(name, text.get(name))
    check_count("num_hidden_layers", text.get("num_hidden_layers"), 1, MAX_LAYERS)
    check_count("vocab_size", text.get("vocab_size"), 1, 1 << 24)
    for name in ("num_attention_heads", "num_key_value_heads"):
        check_count(name, text.get(name), 1, 4096)
    check_number("rms_norm_eps", text.get("rms_norm_eps"), 1)
    check_number("rope_theta", text.get("rope_theta", 10000.0))
    for name in ("head_dim", "max_position_embeddings"):
        if text.get(name) is not None:
            check_count(name, text[name], 1, 1 << 31)
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        if type(text.get(name, False)) is not bool:
            check_choice(name, text[name], ("true", "false"))
    heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
    if heads % groups or (text["hidden_size"] % heads and not text.get("head_dim")):
        raise CheckpointError(
            f"config.json: hidden_size {text['hidden_size']}, num_attention_heads"
            f" {heads} and num_key_value_heads {groups} do not divide each other;"
            " get the right config.json"
        )


def check_model(config: "ModelConfig"):
    """The parts must fit each other: visual width, projector, language model."""
    for name in ("text", "quantization", "source"):
        value = getattr(config, name)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(
                f"config.json: {name} is {value!r:.200}, not an object;"
                " convert the checkpoint again"
            )
    if config.text is not None:
        check_text(config.text)
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
            f"config.json: the picture's size {config.image_size} is not a multiple of"
            f" the encoder's {config.vision.stride}; get the right config.json"
        )
    _check_joints(config)


def _check_joints(config: "ModelConfig"):
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
        hidden = config.text["hidden_size"]
        if width not in (None, hidden):
            raise CheckpointError(
                f"{source} are {width} wide, but the language model's embeddings"
                f" {hidden}; these parts are of different checkpoints"
            )
