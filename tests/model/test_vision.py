"""The encoder part by part: every formulation against plain MLX operations.

The goldens hold the encoder's output (`test_parity.py`); here the maps in between are
followed, at odd grids, in batches, and with every part that a config can ask for.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import encoder as forms
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.support.assert_close import assert_close
from tests.support.compiling import compiling

SMALL = VisionConfig(
    depths=(1, 2, 1, 1, 1),
    embed_dims=(4, 8, 24, 48, 96),
    mlp_dims=(16, 32, 48, 128, 192),
    out_dim=192,
    out_se_dim=8,
    head_dim=16,
)
# MobileCLIP's smaller relatives: four stages, squeeze-excite, BatchNorm folded away.
FOUR_STAGES = VisionConfig(
    depths=(1, 1, 2, 1),
    embed_dims=(8, 16, 32, 64),
    mlp_dims=(24, 48, 96, 192),
    token_mixers=("repmixer",) * 3 + ("attention",),
    pos_emb_kernels=(0, 0, 0, 7),
    downsample_se_dims=(0, 0, 8, 8),
    layer_norm=False,
    out_dim=128,
    out_se_dim=8,
)
CONFIGS = {
    "small": SMALL,
    "four stages": FOUR_STAGES,
    "average pools": replace(
        SMALL, multi_scale="avgpool", multi_scale_stages=(1, 3), ffn_kernel=3
    ),
    "learnt pools": replace(SMALL, multi_scale="dwconv", multi_scale_stages=(0,)),
    "five by five": replace(SMALL, ffn_kernel=5, repmixer_kernel=5),
}
LIMIT = 1e-4  # of the standard deviation, float32 through 20 layers


@contextmanager
def cpu_form() -> Iterator[None]:
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    yield


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> VisionConfig:
    return CONFIGS[request.param]


def pixels(config: VisionConfig, batch: int = 2, grid: int = 3) -> mx.array:
    size = config.stride * grid
    return mx.random.uniform(shape=(batch, size, size, 3))


@pytest.mark.parametrize("form", [cpu_form, forms.without_cpu_kernels])
def test_every_part_agrees_with_plain_operations(config, form):
    model, x = forms.encoder(config), pixels(config)
    with forms.plain():
        wanted = model.intermediates(x)
        mx.eval(wanted)
    with form():
        given = model.intermediates(x)
        mx.eval(given)
    assert list(given) == list(wanted)
    for name in wanted:
        assert_close(name, given[name], wanted[name], LIMIT)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """`mx.compile` does nothing: on a CPU it would call g++ for each fused kernel."""
    with compiling(False):
        yield


def test_the_gpu_form_agrees_with_plain_operations(config, uncompiled):
    model, x = forms.encoder(config), pixels(config)
    with forms.plain():
        wanted = model(x)
        mx.eval(wanted)
    with forms.gpu_form():
        assert_close("features", model(x), wanted, LIMIT)


@pytest.mark.slow
def test_the_compiled_graph_sees_weights_that_change():
    model, x = forms.encoder(SMALL), pixels(SMALL)
    with forms.gpu_form():
        given = model(x)
        model.update({"final_conv": {"depthwise": {"bias": mx.zeros((192,))}}})
        changed = model(x)
    with forms.plain():
        assert_close("new weights", changed, model(x), LIMIT)
    assert not mx.allclose(given, changed)


def test_images_of_a_batch_do_not_mix():
    model, x = forms.encoder(SMALL), pixels(SMALL, batch=3)
    together = model(x)
    for index in range(3):
        alone = model(x[index : index + 1])[0]
        assert_close(f"image {index}", together[index], alone, LIMIT)


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_shape_follows_the_resolution(grid):
    features = forms.encoder(SMALL)(pixels(SMALL, batch=1, grid=grid))
    assert features.shape == (1, grid * grid, SMALL.feature_dim)
    assert SMALL.tokens(64 * grid) == grid * grid


def test_tokens_run_row_by_row():
    model = forms.encoder(SMALL)
    maps = model.intermediates(pixels(SMALL, batch=1, grid=2))
    rows = np.array(maps["final_conv"]).reshape(1, 4, -1)
    assert np.array_equal(np.array(maps["features"]), rows)


def test_no_map_is_held_for_longer_than_the_part_that_takes_it(monkeypatch):
    config = replace(SMALL, embed_dims=(64,) * 5, depths=(2, 1, 1, 1, 1))
    model, x = forms.encoder(config), pixels(config, batch=1, grid=4)
    stem = model._stem

    def stem_alone(x: mx.array) -> mx.array:
        mx.eval(x := stem(x))
        mx.reset_peak_memory()
        return x

    monkeypatch.setattr(model, "_stem", stem_alone)
    mx.eval(model.parameters(), x)
    with cpu_form():
        before, largest = mx.get_active_memory(), 64 * 64 * 64 * 4
        mx.eval(model(x))
        maps = (mx.get_peak_memory() - before) / largest
    print(f"at most {maps:.2f} of the largest map")
    assert 2 <= maps < 2.2


def test_bfloat16_stays_bfloat16_and_near():
    model, x = forms.encoder(SMALL), pixels(SMALL)
    wanted = model(x)
    model.set_dtype(mx.bfloat16)
    given = model(x.astype(mx.bfloat16))
    assert given.dtype == mx.bfloat16
    difference = np.array(given.astype(mx.float32)) - np.array(wanted)
    ratio = np.sqrt(np.square(difference).mean()) / np.array(wanted).std()
    print(f"bfloat16: root mean square difference {ratio:.4f} of the std")
    assert ratio < 0.01


def test_the_graph_computes_about_half_as_often_as_mlx_vlms():
    # mlx-vlm 0.7.10's VisionModel, counted the same way.
    # Views (`primitives` less `compute`) cost no GPU time.
    with compiling(True):
        counts = forms.graph(VisionConfig(), 1024)
    print(counts)
    assert counts["primitives"] <= 0.72 * 1459
    assert counts["compute"] <= 0.52 * 861


def test_the_encoder_is_lazy_where_no_kernels_are():
    with forms.without_cpu_kernels():
        features = forms.encoder(SMALL)(pixels(SMALL))
    assert forms.primitives(features).total() > 100


def test_a_small_encoder_starts_no_compiler(tmp_path: Path):
    code = (
        "import mlx.core as mx; from benchmarks.encoder import encoder;"
        "from tests.model.test_vision import SMALL, pixels;"
        "mx.eval(encoder(SMALL)(pixels(SMALL)))"
    )
    folders = {"TMPDIR": str(tmp_path), "FASTVLM_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | folders, check=True)
    assert not list(tmp_path.rglob("*.so"))
