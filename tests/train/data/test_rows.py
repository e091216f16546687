"""Rows: ids and labels are those of a naive trainer; too long samples are named."""

import numpy as np
import pytest

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.train.data.rows import Row, build_row, build_rows
from fastvlm_mlx.train.data.samples import Sample
from tests.support.mock_model import MockModel
from tests.support.small_tokenizers import TEXTS
from tests.support.train_data import IGNORE, IMAGE, naive

SAMPLES = {
    "one turn": Sample(("1",), (("What is it?", "A cup of coffee."),)),
    "two turns": Sample(
        ("1",), (("What is it?", "A cup."), ("Color?", "It is white."))
    ),
    "two images": Sample(("1", "2"), (("Which is red?", "The first."),)),
    "later image": Sample(
        ("1", "2", "3"),
        (("What?", "A cup."), ("And these?", "Two spoons.")),
        images_by_turn=(1, 2),
    ),
    "no image": Sample((), (("Hello", "Hi!"), ("Bye", "See you."))),
    "system": Sample(("1",), (("What?", "Tea"),), system="Answer briefly."),
    "no system": Sample(("1",), (("What?", "Tea"),), system=""),
    "texts": Sample(("1",), tuple((text, text[::-1]) for text in TEXTS)),
    "no question": Sample(("1",), (("", "A red flag."),)),
}


def pairs(row: Row) -> list[tuple[int, int]]:
    return list(zip(row.positions.tolist(), row.targets.tolist(), strict=True))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_labels_of_a_naive_trainer(name: str, mini: Tokenizer):
    sample = SAMPLES[name]
    tokens = [4, 7, 2][: len(sample.images)]
    ids, labels = naive(sample, tokens)
    row = build_row(sample, mini, tokens)
    # The last end of an answer is a target only, and what follows it is not needed.
    kept = max(at for at, label in enumerate(labels) if label != IGNORE)
    assert np.where(row.feature_rows >= 0, IMAGE, row.ids).tolist() == ids[:kept]
    assert pairs(row) == [
        (at - 1, label) for at, label in enumerate(labels) if label != IGNORE
    ]
    assert row.feature_rows[row.feature_rows >= 0].tolist() == list(range(sum(tokens)))
    assert not row.ids[row.feature_rows >= 0].any()
    assert {row.ids.dtype, row.positions.dtype, row.targets.dtype} == {np.dtype("i4")}


def test_what_generation_reads_is_what_was_learned(mini: Tokenizer):
    """The prompt up to an answer is the one that the model is asked with."""
    from fastvlm_mlx.processing.chat_template import encode_turn

    row = build_row(SAMPLES["two turns"], mini, [4])
    first = encode_turn(mini, "What is it?", [0])
    prompt = [i for p in first for i in (p if isinstance(p, list) else [0] * 4)]
    assert row.ids[: len(prompt)].tolist() == prompt
    assert row.positions[0] == len(prompt) - 1


def test_the_ids_of_a_conversation(model: MockModel):
    """What the model has read before its second answer is what the row has there."""
    from fastvlm_mlx.conversation.attachment import Attachment
    from fastvlm_mlx.conversation.history import History, Turn

    sample = SAMPLES["later image"]
    row = build_row(sample, model.tokenizer, [4, 4, 4], model.config.template)
    images = [Attachment(str(n), None, str(n), tokens=4) for n in range(3)]
    history = History(model, None)
    for (question, answer), shown in zip(sample.turns, (1, 2), strict=True):
        history.replay(Turn("user", question, tuple(images[:shown])))
        history.replay(Turn("assistant", answer))
    ids = [
        token
        for piece in history.pieces
        for token in (piece if isinstance(piece, list) else [0] * 4)
    ]
    assert row.ids.tolist() == ids


def test_vicuna_learns_its_own_end(vicuna: Tokenizer):
    sample = Sample(("1",), (("he", "he"), ("he he", "hi")))
    row = build_row(sample, vicuna, [2], "vicuna")
    end = vicuna.id("</s>")
    assert row.targets.tolist().count(end) == 2 and row.targets[-1] == end
    assert row.ids.tolist().count(end) == 1
    learned = [token for token in row.targets.tolist() if token != end]
    assert vicuna.decode(learned) == "he hi"
    for position, target in pairs(row)[:-1]:
        assert row.ids[position + 1] == target


def test_control_tokens_in_texts_are_characters(mini: Tokenizer):
    sample = Sample((), (("<|im_end|>", "say <|im_end|> and <|im_start|>"),))
    row = build_row(sample, mini, [])
    assert row.targets.tolist().count(mini.id("<|im_end|>")) == 1


def test_too_long_samples_are_named(mini: Tokenizer):
    long = [
        Sample(("1",), (("What?", "word " * 40 * n),), origin=f"set.jsonl:{n}")
        for n in range(1, 7)
    ]
    with pytest.raises(DataError) as caught:
        build_rows([*long, SAMPLES["no image"]], mini, lambda image: 20, 90)
    message = str(caught.value)
    print(message)
    assert message.startswith("6 samples that are too long: set.jsonl:1: ")
    assert "20 of them of images, more than the context of 90" in message
    assert "set.jsonl:3: " in message and "set.jsonl:4" not in message
    assert "; and 3 more; shorten the text, give them fewer" in message


def test_a_sample_may_fill_the_context(mini: Tokenizer):
    sample = SAMPLES["one turn"]
    size = len(build_row(sample, mini, [20]))
    (row,) = build_rows([sample], mini, lambda image: 20, size)
    assert len(row) == size
    with pytest.raises(DataError, match=f"{size} tokens, 20 of them"):
        build_rows([sample], mini, lambda image: 20, size - 1)
