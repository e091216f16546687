"""Adds functions to a Core AI module: their inputs, states and outputs by name."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastvlm_mlx.convert.coreai.unpublished import mark_states
from fastvlm_mlx.coreai_runtime import import_coreai

ANY = -1  # a dimension that is known when the function is called

# A shape and NumPy's type.
Tensor = tuple[tuple[int, ...], type]


def add_function(
    body: Callable[..., Any],
    name: str,
    inputs: Mapping[str, Tensor],
    output: tuple[str, Tensor],
    states: Mapping[str, Tensor] | None = None,
) -> None:
    """Adds `body` to the open module.

    Args:
        body: its parameters are called as the inputs, then the states. It returns the
            output and, if there are states, after it the new value of each.
        states: kept by whoever calls the function, which changes them in place.
    """
    ops: Any = import_coreai()
    states = states or {}

    def declared(tensor: Tensor, result: str | None = None) -> Any:
        return Annotated[ops.Value, ops.TensorType(*tensor, name=result)]

    after = {state: f"{state}_after" for state in states}
    results = [declared(output[1], output[0])]
    results += [declared(states[state], after[state]) for state in states]
    body.__annotations__ = {
        each: declared(tensor) for each, tensor in {**inputs, **states}.items()
    } | {"return": tuple[tuple(results)] if states else results[0]}
    graph = ops.graph(body, provided_name=name)
    if states:
        mark_states(graph, [*inputs, *states], after)
