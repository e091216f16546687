"""What the MIL builder reads of the network."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx.convert import encoder_walk
from fastvlm_mlx.convert.coreml import mlpackage
from fastvlm_mlx.convert.coreml.mil_evaluator import evaluate
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.convert.to_coreml import write_package
from fastvlm_mlx.model.ffn_biases import fold_ffn_biases
from fastvlm_mlx.model.vision import Pool
from fastvlm_mlx.model.vision_blocks import Attention
from tests.support.mock_model import MockModel


def test_the_builder_reads_public_attributes_of_the_network_only():
    private = [
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(encoder_walk)))
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


def test_a_model_loaded_for_a_gpu_gives_the_same_program(tmp_path: Path):
    pytest.importorskip("coremltools")
    model = MockModel()
    assert model.vision_tower is not None
    images = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    features = []
    for name in ("as_stored", "folded"):
        package = tmp_path / f"{name}.mlpackage"
        options = CoreMLOptions(precision="float32", resolutions=(128,))
        write_package(model, package, options, (128,), lambda line: None)
        function = mlpackage.read(package).functions["main"]
        features.append(evaluate(function, {"images": images})["image_features"])
        fold_ffn_biases(model.vision_tower)
    assert psnr(*features) > 100
