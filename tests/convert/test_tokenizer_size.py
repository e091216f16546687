"""A tokenizer may have as many tokens as the language model, and none more."""

from pathlib import Path

import pytest

from fastvlm_mlx import load
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support import checkpoints
from tests.support.checkpoints import Spec


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> int:
    place = tmp_path_factory.mktemp("tokens")
    return len(Tokenizer(checkpoints.write(place / "any", Spec())))


def test_as_many(tmp_path: Path, tokens: int):
    source = checkpoints.write(tmp_path / "source", Spec(vocab=tokens))
    to_mlx.convert(source, tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.config.text is not None and model.config.text.vocab_size == tokens


def test_one_more(tmp_path: Path, tokens: int):
    source = checkpoints.write(tmp_path / "source", Spec(vocab=tokens - 1))
    with pytest.raises(CheckpointError) as caught:
        to_mlx.convert(source, tmp_path / "out")
    assert str(caught.value) == (
        f"{source}: the tokenizer has {tokens} tokens, but the language model only"
        f" {tokens - 1}; get the tokenizer of this model"
    )
