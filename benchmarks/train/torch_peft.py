"""Training with transformers' FastVLM and peft in torch, in a process of its own.

    python -m benchmarks.train.torch_peft SETTINGS

SETTINGS is a JSON object, see `benchmarks/train/__main__.py`. Prints a JSON object. It
trains as the documentation of both libraries has it: every step encodes its images
again, and the vocabulary's head computes every position.
"""

# pyright: reportMissingImports=false

import json
import sys
import time
from typing import Any

from benchmarks.peers.transformers_runtime import define_missing_operators
from fastvlm_mlx.peak_memory import peak_memory

SYSTEM = "You are a helpful assistant."
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> None:
    settings = json.loads(sys.argv[1])
    import torch

    define_missing_operators()
    import peft
    from transformers import AutoTokenizer, FastVlmForConditionalGeneration

    model: Any = FastVlmForConditionalGeneration.from_pretrained(
        settings["transformers_model"], dtype=torch.float32
    )
    weights = sum(each.nbytes for each in model.parameters())
    config = peft.LoraConfig(
        r=settings["rank"],
        lora_alpha=2 * settings["rank"],
        target_modules=rf".*language_model.*\.({'|'.join(PARTS)})",
    )
    if settings["checkpoint"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = peft.get_peft_model(model, config).train()
    # The encoder's batch norm, if any is left, must not learn either.
    model.base_model.model.model.vision_tower.eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(settings["transformers_model"])

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    side, image_token = settings["resolution"], model.config.image_token_index
    before = encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
    asked = f"\n{settings['question']}<|im_end|>\n<|im_start|>assistant\n"
    question = before + [image_token] * (side // 64) ** 2 + encode(asked)
    answer = encode(settings["answer"]) + encode("<|im_end|>")
    count = len(settings["images"])
    ids = torch.tensor([question + answer] * count)
    labels = torch.tensor([[-100] * len(question) + answer] * count)
    learning = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=2e-4, weight_decay=0.0)
    found: dict[str, Any] = {"seconds": [], "cpu": [], "losses": []}
    found["learning"] = sum(each.numel() for each in learning)
    found["weights"] = weights
    for _ in range(1 + settings["steps"]):  # the first one warms up
        begun, used = time.perf_counter(), time.process_time()
        pixels = torch.cat([_pixels(path, side) for path in settings["images"]])
        loss = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            labels=labels,
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found["losses"].append(loss.item())
        found["seconds"].append(time.perf_counter() - begun)
        found["cpu"].append(time.process_time() - used)
    found["process_peak"] = peak_memory()
    found["versions"] = {"torch": torch.__version__, "peft": peft.__version__}
    print(json.dumps(found))


def _pixels(path: str, side: int) -> Any:
    """Padded to a square, bicubic, 0..1: (1, 3, R, R)."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest))
    left, top = (longest - image.width) // 2, (longest - image.height) // 2
    square.paste(image, (left, top))
    square = square.resize((side, side), Image.Resampling.BICUBIC)
    array = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy(array[None])


if __name__ == "__main__":
    main()
