"""A tokenizer exactly as large as the vocabulary, and one token larger."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.convert import to_ios, to_mlx
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support import checkpoints
from tests.support.checkpoints import TOKENIZER, Spec

SIZE = len(Tokenizer(TOKENIZER))


def test_a_vocabulary_without_padding_converts(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec(vocab=SIZE))
    to_mlx.convert(source, tmp_path / "out")
    assert load(tmp_path / "out").ask("Hi", max_tokens=2) is not None


def test_one_token_too_many_is_refused(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec(vocab=SIZE - 1))
    message = f"the tokenizer has {SIZE} tokens, but the language model only {SIZE - 1}"
    with pytest.raises(CheckpointError, match=message):
        to_mlx.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("vocabulary", [SIZE, SIZE + 1])
def test_the_image_token_of_ios_has_a_row(vocabulary: int, tmp_path: Path):
    """`<image>` is added after the last token, where a full embedding has no row."""
    pytest.importorskip("coremltools")
    spec = Spec(vocab=vocabulary, tied=False)
    source = checkpoints.write(tmp_path / "source", spec)
    to_ios.export(source, tmp_path / "out", q_bits=None)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tensors = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert isinstance(tensors, dict)
    image, rows = config["image_token_index"], config["vocab_size"]
    assert image == SIZE
    assert rows == (1600 if vocabulary == SIZE else vocabulary)
    for name in ("model.embed_tokens", "lm_head"):
        table = tensors[f"language_model.{name}.weight"]
        assert table.shape[0] == rows > image
        assert float(mx.abs(table[vocabulary:]).sum()) == 0
        assert float(mx.abs(table[:vocabulary]).min(axis=1).max()) > 0
