"""The runtime of mlx-vlm: `stream_generate`, as its `generate` and `chat` commands.

`fast_blas` makes MLX use OpenBLAS on Linux, as fastvlm-mlx does; without it, this is
mlx-vlm as installed.
"""

# pyright: reportMissingImports=false

import time
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from benchmarks.peers import protocol


class MlxVlm:
    """mlx-vlm's model, processor and stream."""

    def __init__(self, model: str, resolution: int, fast_blas: bool):
        from mlx_vlm import load

        from fastvlm_mlx.cpu import openblas

        if fast_blas:
            openblas.bind()
        self.blas = openblas.library_name()
        self.model, self.processor = load(model)
        self.processor.image_processor.size = {"shortest_edge": resolution}
        self.processor.image_processor.crop_size = {
            "height": resolution,
            "width": resolution,
        }
        mx.eval(self.model.parameters())
        self.messages: list[Any] = []
        self.image = ""

    def versions(self) -> dict[str, str]:
        names = ("mlx-vlm", "mlx", "transformers")
        return {"BLAS": self.blas, **{name: version(name) for name in names}}

    def first(self, image: str, prompt: str, tokens: int) -> dict[str, Any]:
        from mlx_vlm.vision_cache import VisionFeatureCache

        started = time.perf_counter()
        self.messages, self.image = [], image
        self.cache = VisionFeatureCache()
        return self._answer(prompt, tokens, started)

    def follow(self, prompt: str, tokens: int) -> dict[str, Any]:
        """As `mlx_vlm chat`: sends all turns again, with its image feature cache."""
        return self._answer(prompt, tokens, time.perf_counter())

    def _answer(self, prompt: str, tokens: int, started: float) -> dict[str, Any]:
        from mlx_vlm import stream_generate
        from mlx_vlm.prompt_utils import apply_chat_template

        self.messages.append({"role": "user", "content": prompt})
        formatted = apply_chat_template(
            self.processor, self.model.config, self.messages, num_images=1
        )
        stamps, ids, chunk, said = [], [], None, ""
        for chunk in stream_generate(
            self.model,
            self.processor,
            formatted,
            [self.image],
            max_tokens=tokens,
            temperature=0.0,
            vision_cache=self.cache,
        ):
            if len(stamps) < tokens:  # the last one only ends the answer
                stamps.append(time.perf_counter())
                ids.append(int(chunk.token))
            said += chunk.text
        assert chunk is not None
        self.messages.append({"role": "assistant", "content": said})
        # mlx-vlm counts the image as one token.
        return protocol.summary(
            started, stamps, ids, prompt_tokens=chunk.prompt_tokens, text=formatted
        )


if __name__ == "__main__":
    protocol.serve(MlxVlm)
