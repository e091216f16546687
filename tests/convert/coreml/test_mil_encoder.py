"""The MIL builder reads only public attributes of the network."""

import ast
import inspect

from fastvlm_mlx.convert.coreml import mil_encoder
from fastvlm_mlx.model.vision import Attention, Pool


def test_the_builder_reads_public_attributes_of_the_network_only():
    private = [
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(mil_encoder)))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert not private
    attention, pool = Attention(64, 32), Pool(8, 4, learnt=False)
    assert (attention.head_dim, pool.ratio) == (32, 4)
    # Plain numbers are not parameters: the names in our folders stay as they are.
    assert set(attention.parameters()) == {"qkv", "proj"}
    assert pool.parameters() == {}
