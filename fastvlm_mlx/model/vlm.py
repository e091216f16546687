"""FastVLMModel, the network: pixels and token ids to logits.

    pixels -> vision_tower -> projector -> spliced between token ids -> language_model

It handles arrays only. `FastVLM` adds images, prompts and conversations.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from fastvlm_mlx.cpu import kernels, mapped_weights
from fastvlm_mlx.device import check_not_forked, on_gpu
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model import language, ops
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.feature_cache import FeatureCache
from fastvlm_mlx.model.vision import WEIGHTS_LOCK, FastViTHD

if TYPE_CHECKING:
    from fastvlm_mlx.processing.tokenizer import Tokenizer

# LLaVA's id for an image in a prompt. It is never looked up in the embedding table.
IMAGE_TOKEN_INDEX = -200

_LONG = 64  # positions: a prompt with an image, after which memory is given back


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


class Encoder(Protocol):
    """What may encode images in place of the vision tower, as `CoreMLEncoder` does.

    With `projected`, it returns the projector's output, not its input.
    """

    projected: bool

    def __call__(self, pixels: Any) -> mx.array:
        """(N, R, R, 3), uint8 or floats in 0..1, to (N, tokens, width)."""
        ...


def encoder_alone() -> CheckpointError:
    """The error for a checkpoint that has no projector and no language model."""
    return CheckpointError(
        "this checkpoint is an encoder alone and cannot chat;"
        " give a whole FastVLM checkpoint"
    )


class FastVLMModel(nn.Module):
    """A vision tower, a projector and a language model, any of which a partial
    checkpoint may lack (the attribute is then None).

    `encoder` is None while the vision tower encodes images. `check_finite` has the
    first features checked for overflow, which float16 may have and bfloat16 not; the
    vision tower and the projector then become bfloat16. `llguidance_tokenizer` is made
    on first use by `generation.constrained`, in seconds, and kept. `projector_is_tuned`
    says that the projector's weights are an adapter's.
    """

    tokenizer: "Tokenizer"
    encoder: Encoder | None
    check_finite: bool
    llguidance_tokenizer: Any
    projector_is_tuned: bool
    vision_tower: FastViTHD | None
    projector: Projector | None
    language_model: Any
    feature_cache: FeatureCache

    def __init__(self, config: ModelConfig):
        super().__init__()
        check_not_forked()
        self.config = config
        self.encoder = None
        self.check_finite = False
        self.feature_cache = FeatureCache()
        self.llguidance_tokenizer = None
        self.projector_is_tuned = False
        self.vision_tower = FastViTHD(config.vision) if config.vision else None
        self.projector = Projector(config.projector) if config.projector else None
        self.language_model = language.build(config.text) if config.text else None

    def encode_pixels(self, pixels: Any) -> mx.array:
        """Visual embeddings, not yet evaluated; only this thread can evaluate them.

        Shapes:
            pixels: (N, R, R, 3), uint8 or floats in 0..1; R: a multiple of 64
            returns (N, (R / 64)^2, hidden)
        Raises:
            CheckpointError: the model has no vision encoder or no projector.
        """
        return self.project(self.encode_features(pixels))

    def encode_features(self, pixels: Any) -> mx.array:
        """The output of `encoder` or of the vision tower, for `project`.

        Shapes:
            pixels: (N, R, R, 3), uint8 or floats in 0..1
            returns (N, (R / 64)^2, width)
        Raises:
            CheckpointError: the model has neither.
        """
        check_not_forked()
        if self.encoder is not None:
            return self.encoder(pixels)
        if self.vision_tower is None and self.config.coreml_encoder:
            raise CheckpointError(
                "this model's encoder is the Core ML package"
                f" {self.config.coreml_encoder}, which needs macOS and coremltools; or"
                " convert the model with --encoder-from and a checkpoint that has one"
            )
        if self.vision_tower is None:
            raise CheckpointError(
                "this model has no vision encoder; convert it with --encoder-from"
                " and a checkpoint that has one"
            )
        if self.check_finite:
            return self._checked_features(self.vision_tower, mx.array(pixels))
        return self._run_tower(self.vision_tower, pixels)

    def _checked_features(self, tower: FastViTHD, pixels: mx.array) -> mx.array:
        """The features, and if these overflow, of weights that are bfloat16 now. What
        other threads encode meanwhile waits, as it would overflow too."""
        with WEIGHTS_LOCK:
            features = tower(pixels)
            if self.check_finite and not mx.isfinite(features).all():
                parts = [part for part in (tower, self.projector) if part is not None]
                for part in parts:
                    part.set_dtype(mx.bfloat16)
                # Here, as no other thread can compute what this one described.
                mx.eval([part.parameters() for part in parts])
                features = tower(pixels)
            self.check_finite = False
        return features

    def _run_tower(self, tower: FastViTHD, pixels: Any) -> mx.array:
        """The features; encoder and language model do not have all of their mapped
        weights in memory at once."""
        if self.language_model is None or on_gpu():
            return tower(mx.array(pixels))
        # Its largest matrix makes room enough; to have all of it again takes longer.
        mapped_weights.release(language.head_parameters(self.language_model))
        features = tower(mx.array(pixels))
        parameters: Any = tree_flatten(tower.parameters())
        mapped_weights.release(array for _, array in parameters)
        kernels.release_memory()
        return features

    def project(self, features: mx.array) -> mx.array:
        """Features to embeddings: (N, tokens, width) to (N, tokens, hidden).

        Raises:
            CheckpointError: the model has no projector, and `encoder` none inside.
        """
        if self.encoder is not None and self.encoder.projected:
            return features
        if self.projector is None:
            raise encoder_alone()
        if self.encoder is not None and self.projector.layers:
            features = features.astype(self.projector.layers[0].weight.dtype)
        return self.projector(features)

    @property
    def embed_tokens(self) -> nn.Embedding | nn.QuantizedEmbedding:
        """The language model's embedding table: ids (...) to (..., hidden)."""
        return self.language_model.model.embed_tokens

    def embed(self, pieces: Sequence[list[int] | mx.array]) -> mx.array:
        """Splices token ids and visual embeddings, in order, into one prompt.

        Shapes:
            pieces: lists of token ids, and (tokens, hidden) visual embeddings
            returns (1, L, hidden)
        """
        table = self.embed_tokens
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

    def __call__(
        self,
        input_ids: mx.array,
        pixel_values: mx.array | None = None,
        cache: list[Any] | None = None,
    ) -> mx.array:
        """Logits of every position, for training and evaluation.

        Each `IMAGE_TOKEN_INDEX` in `input_ids` (LLaVA's -200) stands for the next
        image of `pixel_values` and becomes its visual tokens. All rows need the same
        number of images.

        Shapes:
            input_ids: (B, L); pixel_values: (N, R, R, 3), N images in B rows
            returns (B, L + N / B * (tokens - 1), vocab)
        Raises:
            OptionError: the images do not match the ids.
        """
        features = (
            [] if pixel_values is None else list(self.encode_pixels(pixel_values))
        )
        rows: Any = input_ids.tolist()
        counts = [row.count(IMAGE_TOKEN_INDEX) for row in rows]
        if sum(counts) != len(features) or len(set(counts)) > 1:
            raise OptionError(
                f"input_ids: {counts} image places by row for {len(features)} images;"
                " give every row the same number, one for each image"
            )
        waiting = iter(features)
        embeddings = []
        for row in rows:
            pieces: list[list[int] | mx.array] = [[]]
            for token in row:
                if token == IMAGE_TOKEN_INDEX:
                    pieces += [next(waiting), []]
                else:
                    cast(list[int], pieces[-1]).append(token)
            embeddings.append(self.embed(pieces))
        states = language.hidden(self.language_model, mx.concatenate(embeddings), cache)
        return language.head(self.language_model, states)

    def logits(self, embeddings: mx.array, cache: list[Any]) -> mx.array:
        """The next token's logits after each row; the cache takes in all of it.

        Only the last position is multiplied with the vocabulary.

        Shapes:
            embeddings: (B, L, hidden); returns (B, vocab)
        """
        states = language.hidden(self.language_model, embeddings, cache)
        if embeddings.shape[1] > _LONG:
            kernels.release_memory()  # what follows takes in the largest matrix
        return language.head(self.language_model, states[:, -1])
