"""Several threads encode with one model."""

import threading
from unittest.mock import patch

import mlx.core as mx

from benchmarks import encoder as forms
from fastvlm_mlx.model.vision import FinalConv
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.model.test_vision import pixels
from tests.support.assert_close import assert_close
from tests.support.compiling import compiling

TINY = VisionConfig(
    depths=(1,) * 5,
    embed_dims=(4, 4, 8, 32, 32),
    mlp_dims=(8,) * 5,
    out_dim=32,
    out_se_dim=4,
)


def test_a_thread_never_sees_the_tracers_of_another():
    model, x = forms.encoder(TINY), pixels(TINY, batch=1)
    mx.eval(x)
    last = FinalConv.__call__
    given: dict[str, mx.array] = {}
    others: list[threading.Thread] = []

    def encode(name: str) -> None:
        given[name] = model(x)
        mx.eval(given[name])

    def meets_another(self: FinalConv, x: mx.array) -> mx.array:
        if not others:
            others.append(threading.Thread(target=encode, args=("other",)))
            others[0].start()
            others[0].join(0.5)
        return last(self, x)

    with forms.gpu_form(), compiling(True):
        with patch.object(FinalConv, "__call__", meets_another):
            encode("first")
            others[0].join()
    with forms.plain():
        wanted = model(x)
    for name in ("first", "other"):
        assert_close(name, given[name], wanted, 1e-4)
