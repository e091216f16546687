"""The runtime of fastvlm-mlx, and a bare mlx-lm loop over the same weights."""

import time
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from benchmarks.peers import protocol


class Ours:
    """fastvlm-mlx by its public API."""

    def __init__(self, model: str, resolution: int, dtype: str | None):
        from fastvlm_mlx import load

        self.model: Any = load(model, dtype=dtype)
        self.resolution = resolution
        self.conversation: Any = None

    def versions(self) -> dict[str, str]:
        from fastvlm_mlx.cpu import openblas

        openblas.bind()  # as the first answer does
        names = ("fastvlm-mlx", "mlx", "mlx-lm")
        return {
            "BLAS": openblas.library_name(),
            **{name: version(name) for name in names},
        }

    def facts(self) -> dict[str, float]:
        """Bytes of a weight of the language model as it lies in memory."""
        from fastvlm_mlx.app.bench import flops

        return {"weight_itemsize": flops.weight_itemsize(self.model.language_model)}

    def first(self, image: str, prompt: str, tokens: int) -> dict[str, Any]:
        started = time.perf_counter()
        self.conversation = self.model.conversation(resolution=self.resolution)
        return self._answer(prompt, tokens, [image], started)

    def follow(self, prompt: str, tokens: int) -> dict[str, Any]:
        return self._answer(prompt, tokens, [], time.perf_counter())

    def _answer(
        self, prompt: str, tokens: int, images: list[str], started: float
    ) -> dict[str, Any]:
        stamps, ids, chunk = [], [], None
        for chunk in self.conversation.stream(
            prompt, images, max_tokens=tokens, ignore_eos=True
        ):
            stamps.append(time.perf_counter())
            ids.append(chunk.token)
        assert chunk is not None
        return protocol.summary(started, stamps, ids, prompt_tokens=chunk.prompt_tokens)

    def bare(self, positions: int, tokens: int) -> dict[str, Any]:
        """mlx-lm's model in a minimal decode loop, after a prompt of `positions`."""
        from fastvlm_mlx.model import language

        text = self.model.config.text
        assert text is not None
        model: Any = language.mlx_lm_module(f"models.{text.model_type}")
        model = model.Model(model.ModelArgs.from_dict(text.to_dict()))
        model.update(self.model.language_model.parameters())
        cache = language.make_cache(model)
        started = time.perf_counter()
        # `model.model`: without the logits of the prompt, which are not used.
        model.model(mx.zeros((1, positions - 1), mx.int32), cache)
        token = mx.argmax(model(mx.zeros((1, 1), mx.int32), cache)[:, -1])
        mx.async_eval(token)
        stamps, ids = [], []
        for _ in range(tokens):
            following = mx.argmax(model(token.reshape(1, 1), cache)[:, -1])
            mx.async_eval(following)
            ids.append(token.item())
            stamps.append(time.perf_counter())
            token = following
        mx.eval(token)
        return protocol.summary(started, stamps, ids)


if __name__ == "__main__":
    protocol.serve(Ours)
