"""TextConfig: the sizes of the language model, each checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.validation import (
    MAX_LAYERS,
    check_bool,
    check_choice,
    check_count,
    check_number,
)

# The `model_type`s of mlx-lm that we build.
TEXT_MODELS = ("qwen2", "llama")

_OPTIONAL = (
    "head_dim",
    "max_position_embeddings",
    "rope_traditional",
    "rope_scaling",
    "attention_bias",
    "mlp_bias",
)


@dataclass(frozen=True)
class TextConfig:
    """The arguments of an mlx-lm model, by the names of `config.json`.

    `head_dim` 0 becomes `hidden_size / num_attention_heads`. `extra` holds the keys
    that are not fields, `given` the keys of the file in their order, so that
    `to_dict` writes again what `from_dict` read.
    """

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    vocab_size: int
    rope_theta: float = 10000.0
    head_dim: int = 0
    max_position_embeddings: int | None = None
    rope_traditional: bool = False
    rope_scaling: Mapping[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self):
        check_text(self)
        if not self.head_dim:
            head_dim = self.hidden_size // self.num_attention_heads
            object.__setattr__(self, "head_dim", head_dim)

    def to_dict(self) -> dict[str, Any]:
        """The `text` object of a converted folder's `config.json`, and the arguments
        of mlx-lm's `ModelArgs`. An optional key with its default value is left out
        unless the file had it."""
        values = {name: getattr(self, name) for name in _NAMES}
        for name in _OPTIONAL:
            if name not in self.given and values[name] == self._default(name):
                del values[name]
        values |= self.extra
        order = [name for name in self.given if name in values]
        return {name: values[name] for name in (*order, *values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TextConfig":
        """Reads `to_dict`'s form; keys that are not fields go into `extra`.

        Raises:
            CheckpointError: a value is missing, of the wrong kind or cannot be
                honoured.
        """
        # A key whose value is null counts as left out, as in mlx-lm.
        stated = {name: value for name, value in values.items() if value is not None}
        known: dict[str, Any] = {name: stated.get(name) for name in _REQUIRED}
        known |= {name: value for name, value in stated.items() if name in _NAMES}
        extra = {name: value for name, value in values.items() if name not in _NAMES}
        given = tuple(name for name in values if name in stated or name in extra)
        return cls(**known, extra=extra, given=given)

    def _default(self, name: str) -> Any:
        if name == "head_dim":
            return self.hidden_size // self.num_attention_heads
        return getattr(TextConfig, name)


_NAMES = tuple(f.name for f in fields(TextConfig) if f.name not in ("extra", "given"))
_REQUIRED = _NAMES[: _NAMES.index("rope_theta")]


def check_text(config: TextConfig):
    """The arguments of an mlx-lm model: whole, finite and of sizes that fit.

    Raises:
        CheckpointError: names the first value that cannot be honoured.
    """
    check_choice("the language model", config.model_type, TEXT_MODELS)
    for name in ("hidden_size", "intermediate_size"):
        check_count(name, getattr(config, name))
    check_count("num_hidden_layers", config.num_hidden_layers, 1, MAX_LAYERS)
    check_count("vocab_size", config.vocab_size, 1, 1 << 24)
    for name in ("num_attention_heads", "num_key_value_heads"):
        check_count(name, getattr(config, name), 1, 4096)
    check_number("rms_norm_eps", config.rms_norm_eps, 1)
    check_number("rope_theta", config.rope_theta)
    check_count("head_dim", config.head_dim, 0, 1 << 31)
    if config.max_position_embeddings is not None:
        positions = config.max_position_embeddings
        check_count("max_position_embeddings", positions, 1, 1 << 31)
    for name in (
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "rope_traditional",
    ):
        check_bool(name, getattr(config, name))
    scaling = config.rope_scaling
    if scaling is not None and not isinstance(scaling, Mapping):
        raise CheckpointError(
            f"config.json: rope_scaling is {scaling!r:.200}, not an object;"
            " get the right config.json"
        )
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups or (config.hidden_size % heads and not config.head_dim):
        raise CheckpointError(
            f"config.json: hidden_size {config.hidden_size}, num_attention_heads"
            f" {heads} and num_key_value_heads {groups} do not divide each other;"
            " get the right config.json"
        )
