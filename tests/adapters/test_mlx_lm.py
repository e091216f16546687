"""mlx-lm itself takes our adapters, and computes what we compute."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastvlm_mlx.adapters.apply import attach
from fastvlm_mlx.adapters.files import write_adapter
from fastvlm_mlx.adapters.spec import AdapterSpec
from tests.support.mock_model import MockModel
from tests.support.small_adapters import make_adapter

# In a process of its own: all of mlx-lm imports transformers, and its model files would
# then be those that other tests get.
CODE = """
import sys
import mlx.core as mx
from mlx_lm.models.qwen2 import Model, ModelArgs
from mlx_lm.tuner.utils import load_adapters
from tests.support.mock_model import TEXT, MockModel
from tests.support.small_adapters import flat

for name in sys.argv[1:]:
    ours = MockModel().language_model
    theirs = Model(ModelArgs.from_dict(TEXT.to_dict()))
    theirs.load_weights(list(flat(ours).items()))
    load_adapters(theirs, name)
    theirs.eval()
    logits = theirs(mx.array([[1, 5, 9, 700]]))
    mx.save(name + "/logits.npy", logits)
"""

SPECS = (
    AdapterSpec(rank=3, scale=1.5, projector=True),
    AdapterSpec("dora", rank=3, scale=1.5),
    AdapterSpec(rank=3, num_layers=1, keys=("self_attn.v_proj", "mlp.down_proj")),
    AdapterSpec("full"),
    AdapterSpec("full", num_layers=1),
)


def test_load_adapters_takes_ours(tmp_path: Path):
    import mlx.core as mx

    folders = []
    for number, spec in enumerate(SPECS):
        folders.append(tmp_path / str(number))
        write_adapter(folders[-1], make_adapter(MockModel(), spec))
    command = [sys.executable, "-c", CODE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    ids = mx.array([[1, 5, 9, 700]])
    for folder, spec in zip(folders, SPECS, strict=True):
        model = MockModel()
        plain = model.language_model(ids)
        attach(model, make_adapter(model, spec))
        ours, theirs = model.language_model(ids), mx.load(str(folder / "logits.npy"))
        assert isinstance(theirs, mx.array)
        assert not mx.allclose(ours, plain, atol=0.1), spec
        error = float(mx.abs(ours - theirs).max() / mx.abs(theirs).max())
        assert error == pytest.approx(0, abs=1e-4), spec
