"""The runtime of transformers' FastVLM in torch.

With the argument `once` it answers one question from a cold start, since transformers
has no command for that.

On CUDA or MPS where there is one, attention as transformers chooses it.
"""

# pyright: reportMissingImports=false

import json
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol

SYSTEM = "You are a helpful assistant."


class Transformers:
    """`FastVlmForConditionalGeneration.generate`, with the KV cache kept."""

    def __init__(self, model: str, resolution: int, dtype: str, channels_last: bool):
        import torch

        define_missing_operators()
        from transformers import AutoTokenizer, FastVlmForConditionalGeneration

        self.torch = torch
        self.device = "cpu"
        if torch.cuda.is_available():
            self.device = "cuda"
        elif torch.backends.mps.is_available():
            self.device = "mps"
        self.dtype = getattr(torch, dtype)
        self.layout: Any = (
            torch.channels_last if channels_last else torch.contiguous_format
        )
        self.model: Any = FastVlmForConditionalGeneration.from_pretrained(
            model, dtype=self.dtype
        )
        self.model.to(self.device, memory_format=self.layout).eval()
        # No token ends an answer, so that all have the same length.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.resolution = resolution

    def versions(self) -> dict[str, str]:
        device = self.device
        if device == "cuda":
            device = self.torch.cuda.get_device_name()
        else:
            device += f", {self.torch.get_num_threads()} threads"
        found = {name: version(name) for name in ("transformers", "timm")}
        # With its build, "+cu130" or "+cpu".
        return {"torch": self.torch.__version__, **found, "device": device}

    def first(self, image: str, prompt: str, tokens: int) -> dict[str, Any]:
        started = time.perf_counter()
        before, after = (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n",
            f"\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        )
        config = self.model.config
        visual = [config.image_token_index] * (self.resolution // 64) ** 2
        self.ids = self._encode(before) + visual + self._encode(after)
        self.cache: Any = None
        return self._answer(tokens, started, pixel_values=self._pixels(image))

    def follow(self, prompt: str, tokens: int) -> dict[str, Any]:
        """Gives all ids and the KV cache: only the new ids are computed."""
        started = time.perf_counter()
        said = f"<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
        self.ids += self._encode(said + "<|im_start|>assistant\n")
        return self._answer(tokens, started)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _pixels(self, path: str) -> Any:
        """Padded to a square, bicubic, 0..1: (1, 3, R, R)."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as opened:
            image = opened.convert("RGB")
        side = max(image.size)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        size = (self.resolution, self.resolution)
        square = square.resize(size, Image.Resampling.BICUBIC)
        array = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255
        return self.torch.from_numpy(array[None]).to(
            self.device, self.dtype, memory_format=self.layout
        )

    def products(self) -> dict[str, float]:
        """FLOP/s of matrix products in each dtype: what torch reaches at most."""
        size, found = 1024 if self.device == "cpu" else 4096, {}
        for name in ("float32", "bfloat16"):
            a, b = self.torch.randn(2, size, size).to(
                self.device, getattr(self.torch, name)
            )
            best = float("inf")
            for _ in range(6):
                started = time.perf_counter()
                (a @ b)[0, 0].item()  # waits for the device
                best = min(best, time.perf_counter() - started)
            found[name] = 2 * size**3 / best
        return found

    def _answer(self, tokens: int, started: float, **inputs: Any) -> dict[str, Any]:
        streamer = TimestampStreamer()
        ids = self.torch.tensor([self.ids], device=self.device)
        with self.torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                streamer=streamer,
                past_key_values=self.cache,
                return_dict_in_generate=True,
                **inputs,
            )
        self.cache = out.past_key_values
        prompt = len(self.ids)
        self.ids = out.sequences[0].tolist()
        return protocol.summary(
            started, streamer.stamps, self.ids[prompt:], prompt_tokens=prompt
        )


class TimestampStreamer:
    """A streamer for `generate` that records when each token arrived."""

    def __init__(self):
        self.stamps: list[float] = []
        self._prompt = True

    def put(self, value: Any) -> None:
        if not self._prompt:
            value.tolist()  # waits for the device, as showing it would
            self.stamps.append(time.perf_counter())
        self._prompt = False

    def end(self) -> None:
        pass


def define_missing_operators() -> None:
    """Makes torchvision importable with a torch that it was not built for.

    PyPI's torchvision is built for CUDA and loads none of its operators beside a CPU
    torch, then stumbles over them. timm imports it and uses none of them for FastViT.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for _ in range(20):
        try:
            import torchvision  # noqa: F401

            return
        except RuntimeError as error:
            missing = re.search(
                r"operator torchvision::(\w+) does not exist", str(error)
            )
            if missing is None:
                raise
            library.define(f"{missing[1]}(Tensor a, Tensor b, float c) -> Tensor")
            for name in [n for n in sys.modules if n.startswith("torchvision")]:
                del sys.modules[name]


def once(image: str, prompt: str, **settings: Any) -> None:
    runtime = Transformers(**settings)
    answer = runtime.first(image, prompt, 1)
    print(runtime.tokenizer.decode(answer["ids"]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "once":
        once(**json.loads(Path(sys.argv[2]).read_text()))
    else:
        protocol.serve(Transformers)
