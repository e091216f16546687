"""Several threads encode with one model."""

import threading
from unittest.mock import patch

import mlx.core as mx

from benchmarks import encoder as forms
from fastvlm_mlx.model.vision import FinalConv
from tests.model.test_vision import pixels
from tests.support import mock_model
from tests.support.assert_close import assert_close
from tests.support.compiling import compiling


def test_a_thread_never_sees_the_tracers_of_another():
    tiny = mock_model.config().vision
    assert tiny is not None
    model, x = forms.encoder(tiny), pixels(tiny, batch=1)
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
