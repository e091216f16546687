"""What `info --adapter` says of an adapter, once it is found to fit the model."""

from typing import TYPE_CHECKING, Any

from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.files import Adapter, naming
from fastvlm_mlx.adapters.layers import changed_layers, check_shapes, expected_shapes

if TYPE_CHECKING:
    from fastvlm_mlx.model.config import ModelConfig
    from fastvlm_mlx.weights.weight_files import Tensors


def adapter_facts(
    adapter: Adapter, tensors: "Tensors", config: "ModelConfig"
) -> dict[str, Any]:
    """The adapter as `info --json` prints it.

    Raises:
        AdapterError: it is of another model than the one of `tensors` and `config`.
    """
    spec, folder = adapter.spec, adapter.folder
    is_full = spec.method == "full"
    with naming(folder):
        layers = len(changed_layers(config, spec))
        if adapter.base is not None:
            record = BaseRecord.of_tensors(tensors, config)
            adapter.base.check_fits(record, folder or "the adapter")
        if not is_full:
            check_shapes(adapter.tensors, expected_shapes(config, spec))
    arrays = [*adapter.tensors.values(), *(adapter.projector or {}).values()]
    return {
        "name": folder.resolve().name if folder else "",
        "base": adapter.base and adapter.base.name,
        "method": spec.method,
        "rank": None if is_full else spec.rank,
        "scale": None if is_full else spec.scale,
        "keys": [] if is_full else [key.partition(".")[2] for key in spec.keys],
        "layers": layers,
        "projector": adapter.projector is not None,
        "parameters": sum(array.size for array in arrays),
        "bytes": adapter.nbytes,
    }
