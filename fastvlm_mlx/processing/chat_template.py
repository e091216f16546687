"""Chat templates: a question and its images to token ids and image placeholders.

A user's text never becomes a control token: `<|im_start|>` typed into a question is
encoded as six ordinary tokens. Images have no token id: a prompt is a list of pieces,
either token ids or an `ImagePlaceholder`, which the model replaces with embeddings.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.processing.tokenizer import Tokenizer


@dataclass(frozen=True)
class ImagePlaceholder:
    """Stands in a prompt for the embeddings of the `index`-th image."""

    index: int


Piece = list[int] | ImagePlaceholder


@dataclass(frozen=True)
class ChatTemplate:
    """The chat format of a family of models. `{}` is replaced by the text.

    Attributes:
        control: the control tokens, recognized in the template alone, never in the
            text that replaces `{}`.
        system: the default system prompt.
        start: what begins every conversation.
        system_block: the system prompt's turn.
        user_block: one question, up to where the answer starts.
        turn_end: what ends an answer before the next question.
    """

    control: tuple[str, ...]
    system: str
    start: str
    system_block: str
    user_block: str
    turn_end: str


CHAT_TEMPLATES = {
    "qwen2": ChatTemplate(
        control=("<|im_start|>", "<|im_end|>"),
        system="You are a helpful assistant.",
        start="",
        system_block="<|im_start|>system\n{}<|im_end|>\n",
        user_block="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        turn_end="<|im_end|>\n",
    ),
    # LLaVA's conv_vicuna_v1, for FastVLM on Vicuna (a Llama).
    "vicuna": ChatTemplate(
        control=("<s>", "</s>"),
        system="A chat between a curious user and an artificial intelligence "
        "assistant. The assistant gives helpful, detailed, and polite answers to the "
        "user's questions.",
        start="<s>",
        system_block="{} ",
        user_block="USER: {} ASSISTANT:",
        turn_end="</s>",
    ),
}


def encode_turn(
    tokenizer: Tokenizer,
    text: str,
    images: Sequence[int] = (),
    *,
    labels: Sequence[str] = (),
    first: bool = True,
    system: str | None = None,
    template: str = "qwen2",
) -> list[Piece]:
    """The pieces of one user turn, up to where the answer starts.

    `images` are the indices of the images of this turn. They come first, in order,
    each followed by a newline, then `text`:

        [[... user \\n], ImagePlaceholder(0), [\\n], ImagePlaceholder(1), [\\n ...]]

    An image with a text in `labels`, which is empty or as long as `images`, has it on
    the line before.

    The first turn begins with the `system` prompt (None: the template's own; "":
    none). A later turn begins with `turn_end`: the KV cache must hold every token of
    the answer before it, but not the stop token, which is sampled and never fed. An
    answer cut short by its length or by the user is ended in the same way.

    Raises:
        OptionError: an unknown template.
        CheckpointError: the tokenizer lacks one of its control tokens.
    """
    if template not in CHAT_TEMPLATES:
        raise OptionError(
            f"template {template!r:.200}: choose one of {', '.join(CHAT_TEMPLATES)}"
        )
    style = CHAT_TEMPLATES[template]
    system = style.system if system is None else system
    content: list[str | ImagePlaceholder] = []
    for index, label in zip(images, labels or [""] * len(images), strict=True):
        content += [f"{label}\n" if label else "", ImagePlaceholder(index), "\n"]
    content.append(text)

    parts = list(_fill(style, style.start if first else style.turn_end, []))
    if first and system:
        parts += _fill(style, style.system_block, [system])
    parts += _fill(style, style.user_block, content)
    return _encode(tokenizer, parts)


def end_token(tokenizer: Tokenizer, template: str = "qwen2") -> int:
    """The id that ends an answer: the control token that `turn_end` begins with.

    Raises:
        CheckpointError: the tokenizer lacks it.
    """
    style = CHAT_TEMPLATES[template]
    (token,) = (t for t in style.control if style.turn_end.startswith(t))
    return _control_id(tokenizer, token)


@dataclass(frozen=True)
class _Control:
    token: str


_Part = str | ImagePlaceholder | _Control


def _fill(
    style: ChatTemplate, pattern: str, content: Sequence[str | ImagePlaceholder]
) -> Iterator[_Part]:
    """Splits `pattern` at control tokens, then fills in `content`, which has none."""
    for part in re.split(f"({'|'.join(map(re.escape, style.control))})", pattern):
        if part in style.control:
            yield _Control(part)
        elif "{}" in part:
            before, after = part.split("{}")
            yield from (before, *content, after)
        else:
            yield part


def _encode(tokenizer: Tokenizer, parts: Sequence[_Part]) -> list[Piece]:
    """Encodes each run of text as one: `user\\n` and a newline may merge to a token."""
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
