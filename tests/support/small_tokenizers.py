"""Small tokenizers and texts for the tests of prompts and tokenizers."""

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers

from tests.support.paths import GOLDEN

MINI = GOLDEN / "tokenizer"  # 1,539 tokens of Qwen2's kind
CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TEXTS = [
    "Describe the image.",
    "\n\nTwo newlines first",
    "中文:请描述这张图片。",
    "emoji 👩‍👩‍👧 and naïve café",
    "tabs\tand\r\nnewlines   trailing  ",
    "I'll we've DON'T 1234567 x+=1;\n\n\n  indented",
]


def library(folder: Path) -> tokenizers.Tokenizer:
    """The folder's tokenizer as the library has it, to compare with."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def write_vicuna(folder: Path) -> None:
    """A sentencepiece BPE as Llama's tokenizer.json has it, of single characters."""
    control = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    characters = [chr(code) for code in range(33, 127)]
    words = ["\u2581", "he", "\u2581he"]
    vocabulary = {
        token: id
        for id, token in enumerate([*control, *byte_tokens, *words, *characters])
    }
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            [("h", "e"), ("\u2581", "he")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(control)
    tokenizer.save(str(folder / "tokenizer.json"))
