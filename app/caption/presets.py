"""`caption --preset`: a question for each purpose, and what is kept of the answer.

A preset only leaves out: what an answer begins with ("The image shows"), markup, what
is beyond its length. It adds no word; a first letter can become a capital.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastvlm_mlx.app.caption.trimming import at_most, without_lead
from fastvlm_mlx.errors import FastVLMError, quoted

Name = Literal["alt-text", "tags", "title", "caption"]

ALT_TEXT = 125  # characters; what screen readers speak without a break
CAPTION = 420
TITLE = 80
TAGS = 20
TAG = 40


@dataclass(frozen=True)
class Preset:
    """A question, the most tokens of its answer, and what is kept of that.

    - `prompt`: the question.
    - `max_tokens`: more are not needed for what is kept.
    - `field`: the XMP property of Dublin Core that the result is.
    - `trim`: makes the result of an answer; `cut` says that the answer has no end.
    """

    name: Name
    prompt: str
    max_tokens: int
    field: Literal["description", "subject", "title"]
    trim: Callable[[str, bool], Any]

    def result(self, answer: str, *, cut: bool) -> Any:
        """A text, or the list of tags, of an answer; `cut` if its length ended it.

        Raises:
            FastVLMError: nothing is left of the answer.
        """
        if result := self.trim(answer, cut):
            return result
        what = "tags" if self.name == "tags" else "text"
        raise FastVLMError(
            f"--preset {self.name}: no {what} in the answer {quoted(answer)!r}; ask in"
            " your own words with -p"
        )


def _alt_text(answer: str, cut: bool) -> str:
    return at_most(ALT_TEXT, without_lead(_plain(answer)), cut=cut)


def _caption(answer: str, cut: bool) -> str:
    return at_most(CAPTION, without_lead(_plain(answer)), cut=cut)


def _title(answer: str, cut: bool) -> str:
    line, *more = [line for line in answer.splitlines() if line.strip()] or [""]
    text = without_lead(_plain(line))
    # A full stop, but not that of "St." or of an ellipsis.
    text = re.sub(
        r"(?<=[^\W\d_]{3})\.$", "", at_most(TITLE, text, cut=cut and not more)
    )
    return text


def tags_of(answer: str, cut: bool) -> list[str]:
    """The tags in an answer, in order: lower case, each once, the first `TAGS`."""
    parts = re.split(r"[,;\n•、，；]+", answer)
    if cut and len(parts) > 1:
        del parts[-1]  # its end is not known
    found: dict[str, None] = {}
    for part in parts:
        text = re.sub(r"^\W*\d{1,2}[.)]\s+", "", part)  # a list's number
        text = without_lead(_plain(text)).lower()
        text = text.strip(" \t.:!?#*-–—_\"'`()[]{}")
        text = re.sub(r"^(and|a|an|the) ", "", text)
        if text and len(text) <= TAG and len(text.split()) <= 4:
            found[unicodedata.normalize("NFC", text)] = None
    return list(found)[:TAGS]


def _plain(text: str) -> str:
    """One line, without Markdown's marks, an answer's label and its quotes."""
    text = re.sub(r"(\*\*|__|`)(.+?)\1", r"\2", " ".join(text.split()))
    text = re.sub(r"^(#+|[-*•]) +", "", text)
    text = re.sub(r"(?i)^(alt[- ]?text|caption|title|tags|keywords) ?: *", "", text)
    for opening, closing in ('""', "''", "“”", "‘’", "«»"):
        inner = text[1:-1]
        if text[:1] == opening and text[-1:] == closing and len(text) > 2:
            if opening not in inner and closing not in inner:
                text = inner.strip()
    return text


_ALL = (
    Preset(
        "alt-text",
        "Describe this image in one short sentence of at most 15 words, for somebody"
        " who cannot see it.",
        64,
        "description",
        _alt_text,
    ),
    Preset(
        "tags",
        "List up to ten keywords for this image, separated by commas. Answer with the"
        " keywords only.",
        96,
        "subject",
        tags_of,
    ),
    Preset(
        "title",
        "Give this image a title of at most six words. Answer with the title only.",
        32,
        "title",
        _title,
    ),
    Preset(
        "caption",
        "Write a caption for this image in one or two sentences.",
        128,
        "description",
        _caption,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
