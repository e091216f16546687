"""The two things that Core AI's public authoring interface cannot say.

`coreai.authoring` takes a NumPy array of int4, but stores a byte for each value where
its runtime reads two values a byte, and it has no way to mark an input as a state.
Apple's coreai-torch reaches below the interface for both, and so does this file, by
the same calls; `coreai_runtime.VERSION` is the one version they were tried with.
"""

from typing import Any

import numpy as np

from fastvlm_mlx.coreai_runtime import import_coreai


def int4_constant(values: np.ndarray) -> Any:
    """A constant of 4-bit integers, two a byte, the lower half of each byte first.

    Args:
        values: int8 in -8..7.
    """
    from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir.dialects import coreai
    from coreai._compiler.dialects._coreai_ops_gen import ConstantOp
    from coreai._compiler.ir import Location

    ops: Any = import_coreai()
    fields = values.astype(np.uint8).reshape(-1) & 15
    fields = np.append(fields, np.zeros(fields.size % 2, np.uint8))
    packed = fields[0::2] | (fields[1::2] << 4)
    kind = ops.TensorType(values.shape, ops.int4)._to_mlir()
    stored = coreai.create_elements_attr(Location.unknown(), kind, packed)
    return ops.Value._from_mlir(ConstantOp(value=stored).result)


def mark_states(graph: Any, arguments: list[str], after: dict[str, str]) -> None:
    """Makes arguments of `graph` states: handles that its caller keeps.

    Args:
        graph: what `coreai.authoring.graph` returned, in the module that is open.
        arguments: the names of all its arguments, in order.
        after: the output that is the new value of each state, by the state's name.
    """
    from coreai._compiler.ir import ArrayAttr, DictAttr, StringAttr

    operation = graph._callable
    attributes = []
    for name, given in zip(arguments, operation.arg_attrs, strict=True):
        kept = {each.name: each.attr for each in given}
        if name in after:
            kept["MutableBuffers.buffer_mutation"] = StringAttr.get(after[name])
        attributes.append(DictAttr.get(kept))
    operation.arg_attrs = ArrayAttr.get(attributes)
