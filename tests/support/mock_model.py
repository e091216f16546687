"""Small models for the tests of generation and conversation."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from PIL import Image

from fastvlm_mlx.conversation.attachment import Attachment
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.generation.stream import stream_generate
from fastvlm_mlx.model import language
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support.small_tokenizers import MINI

VOCABULARY = 1600  # padded beyond the tokenizer's 1,539, as in real checkpoints
HIDDEN = 32

TEXT = TextConfig(
    model_type="qwen2",
    hidden_size=HIDDEN,
    num_hidden_layers=2,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    vocab_size=VOCABULARY,
    max_position_embeddings=32768,
)


def config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "vision": VisionConfig(
            depths=(1,) * 5,
            embed_dims=(4, 4, 8, 32, 32),
            mlp_dims=(8,) * 5,
            out_dim=32,
            out_se_dim=4,
        ),
        "projector": ProjectorConfig("linear", (32, HIDDEN)),
        "text": TEXT,
        "image_size": 128,
    }
    return ModelConfig(**{**values, **changes})


class MockModel(FastVLM):
    """A FastVLM of seeded random weights, wild enough that answers do not repeat.

    `encoded` counts the images and tiles that went through the encoder.
    """

    def __init__(self, **changes: Any):
        super().__init__(config(**changes))
        flat: list[tuple[str, mx.array]] = tree_flatten(self.parameters())  # type: ignore
        self.load_weights(
            [
                (name, 0.4 * mx.random.normal(array.shape, key=mx.random.key(seed)))
                for seed, (name, array) in enumerate(flat)
            ]
        )
        mx.eval(self.parameters())
        self.eval()
        self.tokenizer = Tokenizer(MINI)
        self.encoded = 0

    def encode_pixels(self, pixels: Any) -> mx.array:
        self.encoded += len(pixels)
        return super().encode_pixels(pixels)


def greedy(model: FastVLMModel, pieces: list[list[int] | Attachment], count: int):
    """`count` greedy ids after `pieces`, everything computed anew for each."""
    ids: list[int] = []
    for _ in range(count):
        parts = [
            piece.features(model) if isinstance(piece, Attachment) else piece
            for piece in pieces
        ]
        cache = language.make_cache(model.language_model)
        logits = model.logits(model.embed([*parts, ids]), cache)
        ids.append(int(mx.argmax(logits).item()))  # type: ignore
    return ids


class _Layers:
    def __init__(self, script: list[int]):
        self.layers = [None, None]
        self.script = script


class ScriptedModel:
    """Answers with `script` whatever it is asked: the n-th position gives its n-th id.

    A stand-in for what `generate` needs of a model. `prompt` counts as read before.
    """

    def __init__(self, script: list[int], prompt: int = 3):
        self.tokenizer = Tokenizer(MINI)
        self.language_model = _Layers(script)
        self.prompt = prompt
        self.cache = language.make_cache(self.language_model)

    def embed_tokens(self, ids: mx.array) -> mx.array:
        return mx.broadcast_to(ids[..., None], (*ids.shape, 4))

    def logits(self, embeddings: mx.array, cache: list[Any]) -> mx.array:
        # [1, L, 4] -> [1, 1, L, 4]: one head
        for layer in cache:
            layer.update_and_fetch(embeddings[None], embeddings[None])
        script = self.language_model.script
        at = min(cache[0].offset - self.prompt, len(script) - 1)
        # Some weight on the embeddings, so that MLX really needs the token before.
        seen = 1e-6 * embeddings[0, -1:, :1].astype(mx.float32)
        wanted = mx.arange(VOCABULARY)[None] == script[at]
        return wanted.astype(mx.float32) + seen


def make_image(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A small image, another one for each seed."""
    noise = mx.random.randint(0, 256, (size[1], size[0], 3), key=mx.random.key(seed))
    return Image.frombytes("RGB", size, bytes(noise.flatten().tolist()))  # type: ignore


def check(conversation: Conversation):
    """The last answer is what everything computed anew gives, id by id, and what the
    cache holds is a beginning of the history."""
    *pieces, answer = conversation.state.pieces
    tokens = list(conversation.history[-1].tokens)
    assert tokens == answer
    assert tokens == greedy(conversation.model, pieces, len(tokens))
    offsets = {layer.offset for layer in conversation.state.cache}
    assert len(offsets) == 1 and offsets.pop() <= conversation.context_used


def plain(conversation: Conversation) -> str:
    """The whole history as text, control tokens and images included."""
    text = conversation.model.tokenizer._tokenizer
    return "".join(
        "<image>"
        if isinstance(piece, Attachment)
        else text.decode(piece, skip_special_tokens=False)
        for piece in conversation.state.pieces
    )


def sample(model: FastVLM, **options: Any) -> list[int | None]:
    """The ids of a sampled answer.

    Stop tokens do not end it: one answer of 300 with another seed has one.
    """
    cache = language.make_cache(model.language_model)
    options = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True, **options}
    stream = stream_generate(
        model, model.embed([[10, 20, 30]]), cache, Sampling(**options)
    )
    return [chunk.token for chunk in stream]
