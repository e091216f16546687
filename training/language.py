"""Tokenizer, chat form and the small Qwen2 that speaks.

The tokenizer is a byte-level BPE like Qwen2's. Its merges come from our questions and
captions without what signs say, so a word on a sign is always spelled letter by
letter and the model can read words that it never saw.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import Qwen2Config, Qwen2ForCausalLM

from training import questions, world

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SYSTEM = "You are a helpful assistant."
BEFORE = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
# A token of an answer of n tokens weighs n ** -BALANCE: 0 would let captions, which are
# long, outweigh all else; 1 would give a caption no more than a single word.
BALANCE = 0.7
UNNAMED = np.full(3, -1, np.float32)  # a token at which no name ends
NEXT_TURN = "\n<|im_start|>user\n"
# Qwen2's rule for cutting text into pieces: digits stand alone, words keep a space.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(vocab_size: int = 768, scenes: int = 3000) -> Tokenizer:
    """Byte-level BPE with `vocab_size` entries, then the three chat tokens."""
    lines = [SYSTEM, "system\n", "user\n", "assistant\n"] * 50
    for seed in range(scenes):
        for pair in questions.pairs(world.sample(seed)):
            for text in (pair.question, pair.question.lower(), pair.answer):
                lines.append(re.sub(r"[A-Z]{2,}|[A-Z]$", "", text))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in SPECIAL]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and Qwen2's tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        str(tokenizer.token_to_id(text)): {"content": text, **flags, "special": True}
        for text in SPECIAL
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    text = json.dumps(config, indent=1)
    (folder / "tokenizer_config.json").write_text(text + "\n")


def language_config(tokenizer: Tokenizer) -> Qwen2Config:
    """A small Qwen2; the vocabulary is padded to a multiple of 64, as real ones are."""
    return Qwen2Config(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        initializer_range=0.06,  # 0.02 is for wide models: attention would start flat
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=tokenizer.token_to_id(SPECIAL[0]),
        eos_token_id=tokenizer.token_to_id(SPECIAL[2]),
        attn_implementation="sdpa",
    )


def language_model(tokenizer: Tokenizer) -> Qwen2ForCausalLM:
    """The model of `language_config`, from random weights."""
    return Qwen2ForCausalLM(language_config(tokenizer))


class Packer:
    """Packs several questions about one image into one sequence.

    [before][image][after][question, answer] [question, answer] ... Each pair sees
    the part before it and itself, at the positions it would have alone, so the image
    is read once and nothing leaks between pairs. Some sequences are instead one long
    conversation, where each turn sees all earlier ones.
    """

    def __init__(self, tokenizer: Tokenizer, talk: float = 0.15):
        self.tokenizer, self.talk = tokenizer, talk
        self.before = tokenizer.encode(BEFORE).ids

    def pair_ids(
        self, pair: questions.Pair, turn: int
    ) -> tuple[list[int], list[int], list[np.ndarray]]:
        """Token ids of the question's part and of the answer with its end mark; for
        each token of the question, what is known of the name that ends there: (3,)
        is it there, x, y, and -1 for what is not known."""
        lead = NEXT_TURN if turn else "\n"
        question = self.tokenizer.encode(lead + pair.question + AFTER)
        named = [UNNAMED] * len(question.ids)
        ends = [end - len(lead) for _, end in question.offsets]
        for mention in pair.mentions:
            known = (mention.there, *(mention.place or (-1, -1)))
            named[ends.index(mention.end)] = np.float32(known)
        answer = self.tokenizer.encode(pair.answer + "<|im_end|>").ids
        return question.ids, answer, named

    def pack(
        self, rng: np.random.Generator, pairs: list[questions.Pair], tokens: int
    ) -> dict[str, np.ndarray]:
        """One sequence: ids (-1 where the image's tokens go), targets (-100 where
        nothing is learned), weights of the targets, positions, the segment of each
        token (0 = shared), and what is known of the names (see `pair_ids`)."""
        talk = len(pairs) > 1 and rng.random() < self.talk
        ids = self.before + [-1] * tokens
        targets, segment = [-100] * len(ids), [0] * len(ids)
        weight = [0.0] * len(ids)
        position = list(range(len(ids)))
        shared = len(ids)
        named = [UNNAMED] * shared
        for turn, pair in enumerate(pairs):
            question, answer, found = self.pair_ids(pair, turn if talk else 0)
            start = len(ids) if talk else shared
            ids += question + answer
            named += [*found, *[UNNAMED] * len(answer)]
            targets += [-100] * len(question) + answer
            weight += [0.0] * len(question) + [len(answer) ** -BALANCE] * len(answer)
            position += range(start, start + len(question) + len(answer))
            segment += [0 if talk else 1 + turn] * (len(question) + len(answer))
        out = {
            "ids": ids, "targets": targets, "weight": np.float32(weight),
            "position": position, "segment": segment, "named": np.stack(named),
        }  # fmt: skip
        return {key: np.array(value) for key, value in out.items()}


def collate(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Pad sequences to one length and add `mask` (B, 1, L, L), True where one sees."""
    length = max(len(row["ids"]) for row in rows)
    fill = {"ids": 0, "targets": -100, "weight": 0, "position": 0, "segment": -1}
    fill |= {"named": -1}

    def pad(value: np.ndarray, fill: int) -> np.ndarray:
        missing = [(0, length - len(value))] + [(0, 0)] * (value.ndim - 1)
        return np.pad(value, missing, constant_values=fill)

    out = {
        key: torch.from_numpy(np.stack([pad(row[key], value) for row in rows]))
        for key, value in fill.items()
    }
    segment = out["segment"]
    same = segment[:, :, None] == segment[:, None, :]
    earlier = torch.ones(length, length).tril().bool()
    out["mask"] = ((same | (segment[:, None, :] == 0)) & earlier)[:, None]
    return out


def with_image(
    model: Qwen2ForCausalLM, ids: torch.Tensor, visual: torch.Tensor
) -> torch.Tensor:
    """Embeddings (B, L, hidden) of `ids` with `visual` (B, tokens, hidden) where the
    ids are -1, which is the same place in every row."""
    embeds = model.get_input_embeddings()(ids.clamp(min=0))
    at = int((ids[0] == -1).nonzero()[0, 0])
    return torch.cat([embeds[:, :at], visual, embeds[:, at + visual.shape[1] :]], 1)


def choose(
    rng: np.random.Generator, pairs: list[questions.Pair], number: int
) -> list[questions.Pair]:
    """`number` of the pairs in random order, the rarer kinds first among equals.

    One question in ten is typed carelessly: small letters, no mark.
    """
    weight = {"describe": 0.3, "count": 1.5, "largest": 2.0}
    p = np.array([weight.get(pair.kind, 1.0) for pair in pairs])
    p[[len(pair.mentions) > 1 for pair in pairs]] = 2.0  # comparisons: learned last
    p = p / p.sum()
    number = min(number, len(pairs))
    picked = rng.choice(len(pairs), number, replace=False, p=p)
    out = []
    for pair in (pairs[i] for i in picked):
        question = pair.question
        if rng.random() < 0.1 and not re.search("[A-Z]{2,}", question):
            question = question.lower().rstrip("?.")
        out.append(replace(pair, question=question))
    return out
