"""The written MIL program beside what coremltools itself writes.

Its optimizer compresses our own plain package; the operations of ours must have the
same parameters, of the same types and ranks. coremltools' own forms are what Apple's
compiler is tested with.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.convert.coreml import mlpackage
from fastvlm_mlx.convert.coreml.mlpackage import Package
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.fastvlm import FastVLM
from tests.mac import variants

pytestmark = [
    pytest.mark.mac,  # minutes of coremltools' passes
    # coremltools leaves its temporary folders to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]

Form = dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def tools():
    pytest.importorskip("coremltools")
    return import_coremltools()


@pytest.fixture(scope="module")
def model(reference: Path) -> FastVLM:
    return load(reference / "llava-mini", dtype="float32")


def forms(package: Package, prefix: str) -> dict[str, Form]:
    """Parameter -> (dtype, rank) of the operations whose type begins so."""
    found: dict[str, Form] = {}
    for function in package.functions.values():
        for operation in function.operations:
            if operation.type.startswith(prefix):
                found[operation.type] = {
                    name: (str(value.dtype), value.ndim)
                    for name, (value, *_) in operation.inputs.items()
                    if isinstance(value, np.ndarray)
                }
    return found


def of_opset(tools, package: Path, ios: int):
    """A package as coremltools' model of the opset of iOS 16 or 18."""
    weights = package / "Data" / "com.apple.CoreML" / "weights"
    spec = tools.utils.load_spec(str(package))
    if ios == 18:
        spec.specificationVersion = 9
        function = spec.mlProgram.functions["main"]
        blocks = function.block_specializations
        blocks["CoreML8"].CopyFrom(blocks[function.opset])
        del blocks[function.opset]
        function.opset = "CoreML8"
    return tools.models.MLModel(spec, weights_dir=str(weights), skip_model_load=True)


@pytest.mark.parametrize("compression", ["int8", "int8-block", "palette8", "palette6"])
def test_compressed_weights_have_coremltools_form(
    tools, model, compression, tmp_path: Path
):
    ours = forms(
        mlpackage.read(variants.write(model, compression, tmp_path)), "constexpr_"
    )
    import coremltools.optimize.coreml as optimize

    plain = variants.write(model, "float16", tmp_path)
    source = of_opset(tools, plain, 18 if compression == "int8-block" else 16)
    if compression.startswith("palette"):
        bits = int(compression[-1])
        config = optimize.OpPalettizerConfig(mode="uniform", nbits=bits)
        compress = optimize.palettize_weights
    else:
        block = {"granularity": "per_block", "block_size": 32}
        config = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            weight_threshold=1,
            **(block if compression == "int8-block" else {}),
        )
        compress = optimize.linear_quantize_weights
    theirs_path = tmp_path / "theirs.mlpackage"
    made: Any = compress(source, optimize.OptimizationConfig(global_config=config))
    made.save(str(theirs_path))
    theirs = forms(mlpackage.read(theirs_path), "constexpr_")
    assert ours
    assert unlike(ours, theirs) == {}


def unlike(ours: dict[str, Form], theirs: dict[str, Form]) -> dict[str, set[str]]:
    """The parameters that we and coremltools write unlike, by operation."""
    return {
        operation: {
            name for name, _ in form.items() ^ theirs.get(operation, {}).items()
        }
        for operation, form in ours.items()
        if form != theirs.get(operation)
    }


def test_a_scalar_zero_point_is_found(tools, model, tmp_path: Path, monkeypatch):
    from coremltools.converters.mil import Builder

    right = mlpackage.read(variants.write(model, "int8", tmp_path))
    dequantize = getattr(Builder, "constexpr_affine_dequantize")  # noqa: B009

    def scalar(*, zero_point, **rest):
        return dequantize(zero_point=np.int8(0), **rest)

    monkeypatch.setattr(Builder, "constexpr_affine_dequantize", scalar)
    (tmp_path / "wrong").mkdir()
    wrong = mlpackage.read(variants.write(model, "int8", tmp_path / "wrong"))
    assert unlike(forms(wrong, "constexpr_"), forms(right, "constexpr_")) == {
        "constexpr_affine_dequantize": {"zero_point"}
    }
