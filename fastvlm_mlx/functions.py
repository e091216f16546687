"""`generate` and `stream_generate`: methods of `FastVLM` as functions."""

from collections.abc import Generator, Sequence
from threading import Event

from fastvlm_mlx.conversation.attachment import ImageSources
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.generation.sampling import Constraint
from fastvlm_mlx.generation.stream import Chunk


def generate(
    model: FastVLM,
    prompt: str,
    images: ImageSources = (),
    *,
    system: str | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    tiles: tuple[int, int] | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    constraint: Constraint | None = None,
    cancel: Event | None = None,
) -> str:
    """`model.ask` as a function, as in mlx-lm and mlx-vlm."""
    return model.ask(
        prompt,
        images,
        system=system,
        fit=fit,
        resolution=resolution,
        tiles=tiles,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
        constraint=constraint,
        cancel=cancel,
    )


def stream_generate(
    model: FastVLM,
    prompt: str,
    images: ImageSources = (),
    *,
    system: str | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    tiles: tuple[int, int] | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    constraint: Constraint | None = None,
    cancel: Event | None = None,
    detailed: bool = False,
    top_logprobs: int | None = None,
) -> Generator[Chunk, None, None]:
    """`model.stream` as a function, as in mlx-lm and mlx-vlm."""
    return model.stream(
        prompt,
        images,
        system=system,
        fit=fit,
        resolution=resolution,
        tiles=tiles,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
        constraint=constraint,
        cancel=cancel,
        detailed=detailed,
        top_logprobs=top_logprobs,
    )
