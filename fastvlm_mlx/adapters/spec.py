"""AdapterSpec: which layers an adapter changes and how, as `adapter_config.json` says.

The file is mlx-lm's, with one key of ours (see `base.py` and `AdapterSpec.projector`),
so that mlx-lm reads what we write and we read what it writes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastvlm_mlx.errors import AdapterError

METHODS = ("lora", "dora", "full")

# The linear layers of one layer of the language model, all of them.
ALL_KEYS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)

# Our key of adapter_config.json: an object, see `BaseRecord.to_dict`.
OUR_KEY = "fastvlm_mlx"

# Beyond any use; a damaged file could ask for more memory than there is.
_MAX_RANK = 1 << 14


@dataclass(frozen=True)
class AdapterSpec:
    """Which layers an adapter changes and how.

    Attributes:
        method: `lora`, `dora`, or `full` for the language model's own weights. The
            next four concern the first two only.
        rank: of the two factors of each change.
        scale: what their product is multiplied by, as in mlx-lm. PEFT's `lora_alpha`
            is `scale * rank`: the default stands for alpha 32 with rank 16.
        dropout: the share of inputs that training drops; nothing at inference.
        keys: names of linear layers inside one layer of the language model; none where
            the projector alone is changed.
        num_layers: how many layers are changed, counted from the last; -1 is all.
            `full` with -1 also changes the embedding and the last norm.
        projector: whether the adapter holds a projector of its own.
    """

    method: str = "lora"
    rank: int = 16
    scale: float = 2.0
    dropout: float = 0.0
    keys: tuple[str, ...] = ALL_KEYS
    num_layers: int = -1
    projector: bool = False

    def __post_init__(self):
        check_spec(self)

    def to_config(self) -> dict[str, Any]:
        """mlx-lm's keys of `adapter_config.json`."""
        config: dict[str, Any] = {
            "fine_tune_type": self.method,
            "num_layers": self.num_layers,
        }
        if self.method != "full":
            config["lora_parameters"] = {
                "rank": self.rank,
                "scale": self.scale,
                "dropout": self.dropout,
                "keys": list(self.keys),
            }
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "AdapterSpec":
        """Reads `to_config`'s form and what mlx-lm writes; other keys are ignored.

        Raises:
            AdapterError: a value is missing, of the wrong kind or cannot be honoured.
        """
        method = config.get("fine_tune_type", "lora")
        ours = config.get(OUR_KEY)
        projector = isinstance(ours, dict) and ours.get("projector") is True
        # mlx-lm takes every layer for 0 and for anything below.
        layers = config.get("num_layers", -1)
        if type(layers) is int and layers < 1:
            layers = -1
        if method == "full":
            return cls(method, num_layers=layers, projector=projector)
        given = config.get("lora_parameters")
        if not isinstance(given, dict):
            raise AdapterError(
                f"adapter_config.json: lora_parameters is {given!r:.200}, not an"
                " object; get the adapter's own file"
            )
        for name in ("rank", "scale"):
            if name not in given:
                raise AdapterError(
                    f"adapter_config.json: lora_parameters has no {name}; get the"
                    " adapter's own file"
                )
        keys = given.get("keys")
        return cls(
            method,
            rank=given["rank"],
            scale=given["scale"],
            dropout=given.get("dropout", 0.0),
            keys=ALL_KEYS
            if keys is None
            else tuple(keys)
            if isinstance(keys, list)
            else keys,
            num_layers=layers,
            projector=projector,
        )


def check_spec(spec: AdapterSpec) -> None:
    """Refuses values that no model could honour.

    Raises:
        AdapterError: names the first one.
    """
    if spec.method not in METHODS:
        raise _refused("fine_tune_type", spec.method, f"one of {', '.join(METHODS)}")
    if type(spec.num_layers) is not int or spec.num_layers == 0 or spec.num_layers < -1:
        raise _refused("num_layers", spec.num_layers, "-1 or a number of layers")
    if type(spec.rank) is not int or not 1 <= spec.rank <= _MAX_RANK:
        raise _refused("rank", spec.rank, f"a whole number from 1 to {_MAX_RANK}")
    if not _is_number(spec.scale):
        raise _refused("scale", spec.scale, "a number")
    if not _is_number(spec.dropout) or not 0 <= spec.dropout < 1:
        raise _refused("dropout", spec.dropout, "a number from 0 to below 1")
    # Without any, the projector alone is changed.
    if not isinstance(spec.keys, tuple) or not (spec.keys or spec.projector):
        raise _refused("keys", spec.keys, "a list of linear layers")
    for key in spec.keys:
        if key not in ALL_KEYS:
            raise _refused("keys", key, f"one of {', '.join(ALL_KEYS)}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _refused(name: str, value: Any, wanted: str) -> AdapterError:
    return AdapterError(f"adapter: {name} is {value!r:.200}; it must be {wanted}")
