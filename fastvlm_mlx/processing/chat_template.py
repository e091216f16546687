"""From a question to token ids, and from generated ids back to text.

Two rules hold everywhere. Text of a user is only ever text: `<|im_start|>` typed into a
question is six ordinary tokens. And an image has no id: a prompt is a list of pieces,
token ids and `Image` places, and the model puts embeddings where the places are.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.processing.tokenizer import Tokenizer


@dataclass(frozen=True)
class ImagePlaceholder:
    """The place of an image in a prompt: the `index`-th of those given."""

    index: int


Piece = list[int] | ImagePlaceholder


@dataclass(frozen=True)
class ChatTemplate:
    """How a family of models writes a chat. `{}` stands for the text of the moment.

    `opening` begins a conversation and holds the system prompt, `user` is one
    question up to where the answer starts, `closing` ends an answer before the next
    question. `control` are the only tokens recognized in these three, and never in
    what takes the place of `{}`.
    """

    control: tuple[str, ...]
    system: str
    start: str
    opening: str
    user: str
    closing: str


TEMPLATES = {
    "qwen2": ChatTemplate(
        control=("<|im_start|>", "<|im_end|>"),
        system="You are a helpful assistant.",
        start="",
        opening="<|im_start|>system\n{}<|im_end|>\n",
        user="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        closing="<|im_end|>\n",
    ),
    # LLaVA's conv_vicuna_v1, for FastVLM on Vicuna (a Llama).
    "vicuna": ChatTemplate(
        control=("<s>", "</s>"),
        system="A chat between a curious user and an artificial intelligence "
        "assistant. The assistant gives helpful, detailed, and polite answers to the "
        "user's questions.",
        start="<s>",
        opening="{} ",
        user="USER: {} ASSISTANT:",
        closing="</s>",
    ),
}


def encode_turn(
    tokenizer: Tokenizer,
    text: str,
    images: Sequence[int] = (),
    *,
    first: bool = True,
    system: str | None = None,
    template: str = "qwen2",
) -> list[Piece]:
    """The pieces of one question, up to where the answer starts.

    `images` are the indices of the images that join in this turn; they stand first
    and in order, each followed by a newline, then `text`:

        [[... user \\n], Image(0), [\\n], Image(1), [\\n Describe ...]]

    The first turn begins the conversation with `system` (None: the template's own; "":
    none). A later one continues after an answer and begins by closing it, so it
    expects every token of the answer in the KV cache and the stop token not: that one
    is sampled but never fed. An answer cut short by length or by the user is closed
    the same way.

    Raises OptionError for an unknown template, CheckpointError if the tokenizer lacks
    one of its control tokens.
    """
    if template not in TEMPLATES:
        raise OptionError(
            f"template {template!r}: choose one of {', '.join(TEMPLATES)}"
        )
    style = TEMPLATES[template]
    system = style.system if system is None else system
    content: list[str | ImagePlaceholder] = []
    for index in images:
        content += [ImagePlaceholder(index), "\n"]
    content.append(text)

    parts = list(_fill(style, style.start if first else style.closing, []))
    if first and system:
        parts += _fill(style, style.opening, [system])
    parts += _fill(style, style.user, content)
    return _encode(tokenizer, parts)


@dataclass(frozen=True)
class _Control:
    token: str


_Part = str | ImagePlaceholder | _Control


def _fill(
    style: ChatTemplate, pattern: str, content: Sequence[str | ImagePlaceholder]
) -> Iterator[_Part]:
    """`pattern` in parts. Split before it is filled: no content becomes control."""
    for part in re.split(f"({'|'.join(map(re.escape, style.control))})", pattern):
        if part in style.control:
            yield _Control(part)
        elif "{}" in part:
            before, after = part.split("{}")
            yield from (before, *content, after)
        else:
            yield part


def _encode(tokenizer: Tokenizer, parts: Sequence[_Part]) -> list[Piece]:
    """Encode each run of text in one go: `user\\n` and a newline may be one token."""
    pieces: list[Piece] = []
    ids: list[int] = []
    run = ""

    def end_run() -> None:
        nonlocal run
        if run:
            ids.extend(tokenizer.encode(run))
            run = ""

    for part in parts:
        if isinstance(part, str):
            run += part
            continue
        end_run()
        if isinstance(part, _Control):
            ids.append(_control_id(tokenizer, part.token))
        else:
            pieces += [ids, part]
            ids = []
    end_run()
    return [piece for piece in (*pieces, ids) if piece != []]


def _control_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.id(token)
    if found is None:
        raise CheckpointError(
            f"{tokenizer.folder}: the tokenizer has no {token}; "
            "copy tokenizer.json and tokenizer_config.json from the original model"
        )
    return found
