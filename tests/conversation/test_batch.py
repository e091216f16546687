"""`batch_generate` over prompts and images: each answer is what `ask` gives."""

import pytest

from fastvlm_mlx import batch_generate
from fastvlm_mlx.errors import ContextError, OptionError
from tests.support.mock_model import MockModel, make_image

PROMPTS = ["What is it?", "And why is that so?", "What is it?", "What was it?"]
IMAGES = [make_image(1), [make_image(2), make_image(3)], (), make_image(4)]


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.8, "seed": 3}, {"stop": ["e"]}, {"system": "Be brief."}],
)
def test_each_answer_is_what_ask_gives(model, options):
    options = {"max_tokens": 9, "tiles": (1, 2), **options}
    found = batch_generate(model, PROMPTS, IMAGES, **options)
    assert found == [
        model.ask(prompt, images, **options)
        for prompt, images in zip(PROMPTS, IMAGES, strict=True)
    ]


def test_prompts_without_images(model):
    found = batch_generate(model, PROMPTS, max_tokens=5)
    assert found == [model.ask(prompt, max_tokens=5) for prompt in PROMPTS]
    assert batch_generate(model, []) == []


def test_what_cannot_be_answered(model):
    with pytest.raises(OptionError) as caught:
        batch_generate(model, PROMPTS, IMAGES[:1])
    assert str(caught.value) == (
        "images: 1 for 4 prompts; give none, or one entry for each"
    )
    with pytest.raises(ContextError):
        batch_generate(MockModel(context_length=30), PROMPTS, IMAGES)
