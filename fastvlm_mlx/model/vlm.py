"""FastVLM: images become tokens of the language model.

    pixels -> vision_tower -> projector -> spliced between token ids -> language_model

The model knows arrays, token ids and embeddings. Conversations, sampling and the
terminal are built on it in files of their own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model import language, ops
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.feature_cache import FeatureCache
from fastvlm_mlx.model.vision import FastViTHD

if TYPE_CHECKING:
    from fastvlm_mlx.processing.tokenizer import Tokenizer


class Projector(nn.Module):
    """The connector from visual features to the language model's embeddings."""

    def __init__(self, config: ProjectorConfig):
        super().__init__()
        self.layers = [
            nn.Linear(dim, out_dim)
            for dim, out_dim in zip(config.dims, config.dims[1:], strict=False)
        ]

    def __call__(self, features: mx.array) -> mx.array:
        """(B, tokens, feature_dim) to (B, tokens, hidden)."""
        for index, layer in enumerate(self.layers):
            features = layer(ops.gelu(features) if index else features)
        return features


class FastVLMModel(nn.Module):
    """A vision tower, a projector and a language model, any of which a partial
    checkpoint may lack (the attribute is then None)."""

    tokenizer: "Tokenizer"
    vision_tower: FastViTHD | None
    projector: Projector | None
    language_model: Any
    feature_cache: FeatureCache

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.feature_cache = FeatureCache()
        self.vision_tower = FastViTHD(config.vision) if config.vision else None
        self.projector = Projector(config.projector) if config.projector else None
        self.language_model = language.build(config.text) if config.text else None

    def encode_pixels(self, pixels: Any) -> mx.array:
        """Visual embeddings, not yet evaluated.

        Shapes:
            pixels: (N, R, R, 3), floats in 0..1, R a multiple of the stride (64)
            returns (N, (R / 64)^2, hidden)
        """
        if self.vision_tower is None:
            raise CheckpointError(
                "this model has no vision encoder; convert it with --encoder-from"
                " and a checkpoint that has one"
            )
        if self.projector is None:
            raise CheckpointError(
                "this checkpoint is an encoder alone and cannot chat;"
                " give a whole FastVLM checkpoint"
            )
        dtype = self.vision_tower.stem.conv.weight.dtype
        features = self.vision_tower(mx.array(pixels).astype(dtype))
        return self.projector(features)

    def embed(self, pieces: Sequence[list[int] | mx.array]) -> mx.array:
        """Splices token ids and visual embeddings, in order, into one prompt.

        Shapes:
            pieces: lists of token ids, and (tokens, hidden) visual embeddings
            returns (1, L, hidden)
        """
        table = self.language_model.model.embed_tokens
        parts = [
            table(mx.array(piece)) if isinstance(piece, list) else piece
            for piece in pieces
            if len(piece)
        ]
        dtype = (
            parts[0].dtype
            if isinstance(pieces[0], list)
            else table(mx.array([0])).dtype
        )
        return mx.concatenate([part.astype(dtype) for part in parts])[None]

    def logits(self, embeddings: mx.array, cache: list[Any]) -> mx.array:
        """The next token's logits after each row; the cache takes in all of it.

        Only the last position is multiplied with the vocabulary.

        Shapes:
            embeddings: (B, L, hidden); returns (B, vocab)
        """
        states = language.hidden(self.language_model, embeddings, cache)
        return language.head(self.language_model, states[:, -1])
