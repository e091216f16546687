"""PEFT's form of an adapter: its config and tensors to ours and back.

PEFT (Hugging Face) stores each factor transposed, below the names of the PyTorch model,
and its scale as `lora_alpha`. The names written are those of Apple's checkpoints, whose
language model is Qwen2ForCausalLM's; those of transformers' FastVLM are read too.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from fastvlm_mlx.adapters.spec import ALL_KEYS, AdapterSpec
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.weights.weight_files import Tensors

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
# Where LLaVA's trainer puts the projector.
LLAVA_PROJECTOR = "non_lora_trainables.bin"

_PREFIX = "base_model.model.model.layers."
_TENSOR = re.compile(
    r"base_model\.model\.(?:model\.)?(?:language_model\.)?(?:model\.)?"
    r"layers\.(\d+)\.(\w+\.\w+)\."
    r"(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_PROJECTOR_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?:model\.)?mm_projector\.(\d+)\.(weight|bias)"
)
_LEAVES = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_magnitude_vector": "m"}

# Options that are read, or say nothing about the arithmetic. Any other one, also of a
# later PEFT, may change it in ways that these layers have not.
_HARMLESS = {
    # read
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights"),
    # what the names of the tensors say as well
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    # of another start, which `init_lora_weights` names, and of training
    *("eva_config", "corda_config", "lora_ga_config", "loftq_config", "velora_config"),
    *("ensure_weight_tying", "merge_weights", "runtime_config"),
    *("megatron_core", "megatron_config"),
    "qalora_group_size",  # unused without `use_qalora`
    # where it comes from
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision"),
}
# Such a value, beside null, false and nothing in it, means "not used".
_UNUSED = {"bias": "none"}
# With any other, such as PiSSA and LoRA-GA, the weights of the base change as well.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def is_peft(config: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is PEFT's."""
    return "peft_type" in config


def from_peft(
    config: Mapping[str, Any], tensors: Tensors
) -> tuple[AdapterSpec, Tensors]:
    """Our spec and tensors for PEFT's `adapter_config.json` and tensors.

    Raises:
        AdapterError: names what we cannot honour.
    """
    _check_config(config)
    given: Tensors = {}
    keys, layers = set(), set()
    for name, array in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in ALL_KEYS:
            raise AdapterError(
                f"the adapter's tensor {name:.200} is of no linear layer of the"
                " language model, and only those can have one; train it with"
                f" target_modules {', '.join(key.split('.')[1] for key in ALL_KEYS)}"
            )
        layer, key, part = match.groups()
        layers.add(int(layer))
        keys.add(key)
        given[f"model.layers.{layer}.{key}.{_LEAVES[part]}"] = array.T
    if not given:
        raise AdapterError("the adapter has no tensors; get the whole folder")
    first, last = min(layers), max(layers)
    if len(layers) != last - first + 1:
        raise AdapterError(
            f"the adapter changes layers {sorted(layers)}, and only the last ones in a"
            " row can be; train it without layers_to_transform"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise AdapterError(
            f"adapter_config.json: r is {rank!r:.200} and lora_alpha {alpha!r:.200},"
            " where numbers are needed; get the adapter's own file"
        )
    spec = AdapterSpec(
        "dora" if config.get("use_dora") else "lora",
        rank=rank,
        scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
        dropout=config.get("lora_dropout") or 0.0,
        keys=tuple(key for key in ALL_KEYS if key in keys),
        num_layers=last - first + 1 if first else -1,
    )
    return spec, given


def to_peft(
    spec: AdapterSpec, tensors: Tensors, base: str | None
) -> tuple[dict[str, Any], Tensors]:
    """PEFT's `adapter_config.json` and tensors for ours.

    Args:
        spec, tensors: what to write.
        base: the name of the model it is of, for `base_model_name_or_path`.
    Raises:
        AdapterError: the method is `full`, for which PEFT has no form.
    """
    if spec.method == "full":
        raise AdapterError(
            "--format peft: a full fine-tuning is no adapter to PEFT; write it with"
            " --format mlx"
        )
    names = {ours: theirs for theirs, ours in _LEAVES.items()}
    given: Tensors = {}
    for name, array in tensors.items():
        place, _, leaf = name.removeprefix("model.layers.").rpartition(".")
        ending = "" if leaf == "m" else ".weight"
        given[f"{_PREFIX}{place}.{names[leaf]}{ending}"] = array.T
    alpha = spec.scale * spec.rank
    layers = sorted({int(name.split(".")[2]) for name in tensors})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": spec.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": spec.dropout,
        "use_dora": spec.method == "dora",
        "target_modules": [key.split(".")[1] for key in spec.keys],
        "layers_to_transform": None if spec.num_layers < 0 else layers,
        "layers_pattern": None if spec.num_layers < 0 else "layers",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    return config, given


def llava_projector(tensors: Tensors) -> Tensors:
    """A projector's weights out of what LLaVA's trainer writes beside an adapter.

    Raises:
        AdapterError: there is something else in it.
    """
    given: Tensors = {}
    for name, array in tensors.items():
        match = _PROJECTOR_TENSOR.fullmatch(name)
        if match is None:
            raise AdapterError(
                f"{LLAVA_PROJECTOR} holds {name:.200}, which is no projector's; train"
                " only the adapter and the projector"
            )
        # Every second of LLaVA's layers is GELU.
        given[f"layers.{int(match[1]) // 2}.{match[2]}"] = array
    return given


def _check_config(config: Mapping[str, Any]) -> None:
    kind = config["peft_type"]
    if kind != "LORA":
        raise AdapterError(
            f"adapter_config.json: peft_type is {kind!r:.200}; only LORA can be read"
        )
    for name, value in config.items():
        if name not in _HARMLESS and value and value != _UNUSED.get(name):
            raise AdapterError(
                f"adapter_config.json: {name} is {value!r:.200}, which cannot be"
                " honoured; train it without"
            )
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise AdapterError(
            f"adapter_config.json: init_lora_weights is {start!r:.200}, which changes"
            " the model's weights too; have PEFT save it as a plain LoRA"
        )
