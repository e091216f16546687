"""What the unfused model says about examples/, for the tests of the folded one.

    python -m training.golden CHECKPOINT examples tests/golden/demo.npz

Written: `embeds/NAME` (16, hidden) after the connector, and `answers`, a JSON text
of file -> question -> greedy answer. All in float32, from the stored branches.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training import language, pretrain
from training.model import DemoFastVLM
from training.score import read

MAX_TOKENS = 96


@torch.no_grad()
def answer(model: DemoFastVLM, visual: torch.Tensor, question: str) -> str:
    """The greedy answer about one image, `visual` (1, tokens, hidden)."""
    tokenizer, embed = model.tokenizer, model.language.get_input_embeddings()
    before = torch.tensor([tokenizer.encode(language.BEFORE).ids])
    after = tokenizer.encode("\n" + question + language.AFTER).ids
    end, said, past = tokenizer.token_to_id("<|im_end|>"), [], None
    embeds = torch.cat([embed(before), visual, embed(torch.tensor([after]))], 1)
    while len(said) < MAX_TOKENS:
        out = model.language(inputs_embeds=embeds, past_key_values=past, use_cache=True)
        token, past = int(out.logits[0, -1].argmax()), out.past_key_values
        if token == end:
            break
        said.append(token)
        embeds = embed(torch.tensor([[token]]))
    return tokenizer.decode(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("examples", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = read(options.checkpoint).eval()
    asked = json.loads((options.examples / "questions.json").read_text())
    arrays, answers = {}, {}
    for name, pairs in asked.items():
        pixels = np.asarray(Image.open(options.examples / name).convert("RGB"))
        with torch.no_grad():
            tokens = model.encoder(
                pretrain.to_pixels(torch.from_numpy(pixels[None].copy()))
            )
            visual = model.projector(tokens)
        arrays[f"embeds/{name}"] = visual[0].numpy()
        answers[name] = {
            p["question"]: answer(model, visual, p["question"]) for p in pairs
        }
        right = sum(answers[name][p["question"]] == p["answer"] for p in pairs)
        print(f"{name}: {right} of {len(pairs)} right")
    np.savez_compressed(options.out, answers=json.dumps(answers), **arrays)


if __name__ == "__main__":
    main()
