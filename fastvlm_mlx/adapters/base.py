"""BaseRecord: which model an adapter was trained on, to refuse it on any other.

Two models of the same sizes differ in their weights, and the same model may be stored
in another dtype or quantized. So the record holds some weights themselves: another
dtype changes them by rounding, 4 bits by a tenth of their spread, another model
altogether.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx

from fastvlm_mlx.cpu import mapped_weights
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.quantization import dequantized
from fastvlm_mlx.weights.weight_files import Tensors

_SIZES = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
# From so many layers, evenly spread, so many weights of one row each.
_SAMPLED_LAYERS, _SAMPLED_WEIGHTS = 8, 16
# The least cosine of two samples of one model: 4-bit rounding leaves 0.99, and models
# trained apart about 0. Rounding to bfloat16 leaves 0.99999.
_LEAST_QUANTIZED, _LEAST_FLOAT = 0.9, 0.9999


@dataclass(frozen=True)
class BaseRecord:
    """The model that an adapter was trained on.

    Attributes:
        name: as the model's config has it, such as `FastVLM-0.5B`.
        sizes: of its language model, by their names in `config.json`.
        sample: some of its weights.
        quantized: whether these came out of a quantized layer.
    """

    name: str
    sizes: dict[str, Any]
    sample: tuple[float, ...]
    quantized: bool = False

    @classmethod
    def of(cls, model: FastVLMModel) -> "BaseRecord":
        """The record of `model`, with or without an adapter's layers on it.

        Raises:
            AdapterError: the model has no language model.
        """
        if model.language_model is None:
            raise no_language_model()
        layers = model.language_model.layers
        return _record(
            model.config, lambda index: _first_row(layers[index].self_attn.o_proj)
        )

    @classmethod
    def of_tensors(cls, tensors: Tensors, config: ModelConfig) -> "BaseRecord":
        """As `of`, of the tensors of a model folder.

        Raises:
            AdapterError: there is no language model.
        """

        def first_row(index: int) -> mx.array:
            layer = f"language_model.model.layers.{index}.self_attn.o_proj"
            row = {
                name: tensors[name][:1]
                for part in ("weight", "scales", "biases")
                if (name := f"{layer}.{part}") in tensors
            }
            return dequantized(row, config.quantization)[f"{layer}.weight"][0]

        return _record(config, first_row)

    def to_dict(self) -> dict[str, Any]:
        """The form of `adapter_config.json`."""
        return asdict(self) | {"sample": list(self.sample)}

    @classmethod
    def from_dict(cls, values: Any) -> "BaseRecord | None":
        """Reads `to_dict`'s form; None where somebody else wrote the file.

        Raises:
            AdapterError: it is our key and damaged.
        """
        if values is None:
            return None
        try:
            name, sizes, sample = values["name"], values["sizes"], values["sample"]
            if not isinstance(name, str) or not isinstance(sizes, Mapping):
                raise TypeError
            numbers = tuple(float(value) for value in sample)
            return cls(name, dict(sizes), numbers, values.get("quantized") is True)
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise AdapterError(
                "adapter_config.json: what it says about its model is damaged; get the"
                " adapter's own file"
            ) from fault

    def check_fits(self, other: "BaseRecord", adapter: object) -> None:
        """Refuses a model that is not the one of this record.

        Args:
            other: the record of what the adapter shall be put on.
            adapter: its folder, for the message.
        Raises:
            AdapterError: names both models and what differs.
        """
        for name, size in self.sizes.items():
            if other.sizes.get(name, size) != size:
                raise AdapterError(
                    f"{adapter}: is an adapter of {self.name} ({name} {size}), not of"
                    f" {other.name} ({name} {other.sizes[name]}); give the model it"
                    " was trained on"
                )
        least = _LEAST_FLOAT
        if self.quantized or other.quantized:
            least = _LEAST_QUANTIZED
        if len(self.sample) != len(other.sample) or not (
            _cosine(self.sample, other.sample) >= least
        ):
            raise AdapterError(
                f"{adapter}: is an adapter of {self.name}, whose weights differ from"
                f" those of this {other.name}; give the model it was trained on"
            )


def no_language_model() -> AdapterError:
    """The error for a checkpoint that lacks what adapters change."""
    return AdapterError(
        "this checkpoint has no language model, which adapters change; give a whole"
        " FastVLM checkpoint"
    )


def _record(config: ModelConfig, first_row: Callable[[int], mx.array]) -> BaseRecord:
    text = config.text
    if text is None:
        raise no_language_model()
    count = text.num_hidden_layers
    chosen = range(0, count, -(-count // _SAMPLED_LAYERS))
    rows = [first_row(index)[:_SAMPLED_WEIGHTS] for index in chosen]
    sample: Any = mx.concatenate([row.astype(mx.float32) for row in rows]).tolist()
    name = str(config.source.get("name") or "a model without a name")
    if merged := config.source.get("adapter"):
        name += f" with {merged} merged into it"
    return BaseRecord(
        name,
        {name: getattr(text, name) for name in _SIZES},
        # Digits enough for 16 bits.
        tuple(float(f"{value:.5g}") for value in sample),
        config.quantization is not None,
    )


def _first_row(layer: Any) -> mx.array:
    """The first row of a linear layer's weight, also below an adapter's layer."""
    linear: Any = layer.linear if "linear" in layer else layer
    row = mapped_weights.rows(linear.weight, mx.array([0]))
    if "scales" not in linear:
        return row[0]
    return mx.dequantize(
        row,
        linear.scales[:1],
        linear.biases[:1],
        group_size=linear.group_size,
        bits=linear.bits,
    )[0]


def _cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    norms = sum(x * x for x in a) * sum(y * y for y in b)
    # Weights that are all zero are those of another model, or equal.
    return product / norms**0.5 if norms else float(a == b)
