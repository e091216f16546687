"""The public signatures spell out the options, as `Sampling` and `ImageOptions` do."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from fastvlm_mlx import batch_generate, generate, stream_generate
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.conversation.prompt_cache import LRUPromptCache
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing.image_options import ImageOptions

ANSWERS = [FastVLM.ask, FastVLM.stream, generate, stream_generate]
TURNS = [Conversation.ask, Conversation.stream]
SHOWS_IMAGES = [
    *ANSWERS,
    batch_generate,
    Conversation.__init__,
    FastVLM.conversation,
    FastVLM.encode_image,
    LRUPromptCache.restore,
]
# Parameters beside the options, in the signatures that take a `Sampling` apart.
OTHERS = {
    *("self", "model", "prompt", "images", "system"),
    *("constraint", "cancel", "detailed", "top_logprobs"),
}


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("function", [*ANSWERS, *TURNS, batch_generate])
def test_every_field_of_sampling_with_its_default(function):
    wanted = {field.name: field.default for field in dataclasses.fields(Sampling)}
    found = keywords(function)
    assert {name: found.get(name, "missing") for name in wanted} == wanted


@pytest.mark.parametrize("function", SHOWS_IMAGES)
def test_every_field_of_image_options_with_none_for_the_models_own(function):
    wanted = {field.name: None for field in dataclasses.fields(ImageOptions)}
    found = keywords(function)
    assert {name: found.get(name, "missing") for name in wanted} == wanted


@pytest.mark.parametrize("function", [*ANSWERS, *TURNS])
def test_nothing_else(function):
    options = {field.name for field in dataclasses.fields(Sampling)}
    if function in ANSWERS:
        options |= {field.name for field in dataclasses.fields(ImageOptions)}
    assert set(inspect.signature(function).parameters) <= options | OTHERS
    assert not any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()
    )


def test_images_and_prompt_come_first():
    for function in [*ANSWERS, *TURNS]:
        names = [n for n in inspect.signature(function).parameters if n != "self"]
        names = [name for name in names if name != "model"]
        assert names[:2] == ["prompt", "images"], function
