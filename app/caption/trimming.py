"""Shortens a model's answer to whole sentences or words, without the usual lead."""

import re
import unicodedata

_IMAGE = r"(?:images?|pictures?|photos?|photographs?)"
_SHOWS = (
    r"(?:shows|showing|depicts|depicting|displays|displaying|features|featuring"
    r"|captures|capturing|presents|presenting|portrays|portraying|contains|illustrates)"
)
# What says no more than that this is an image. "A painting of" tells something.
_LEADS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:the|this|an?) {_IMAGE} {_SHOWS} (?:that )?",
        rf"{_IMAGE} {_SHOWS} ",
        rf"(?:the|this) {_IMAGE} is (?:of |(?=an? |the ))",
        rf"(?:this|it|here) is (?=an? {_IMAGE} of )",
        rf"(?:(?:the|this|an?) )?{_IMAGE} of ",
        rf"in (?:the|this) {_IMAGE},? (?:(?:you can see|we can see|we see|one sees) )?",
        r"(?:you can see|we can see|we see) (?=an? |the |two |three |several |many )",
    )
)
# An end that is none: "Mr. Smith", "J. Smith".
_SHORT = re.compile(
    r"(?:^|[\s(])(?:mr|mrs|ms|dr|st|no|vs|prof|jr|sr|approx|e\.g|i\.e|[a-z])\.$",
    re.IGNORECASE,
)
_END = re.compile(r"""[.!?]+["'”’»)\]]*(?=\s+[^\sa-z]|\s*$)|[。！？]+[」』”]*""")
# What no text ends with.
_DANGLING = re.compile(
    r"(?:[\s,;:(–—-]|\s(?:a|an|the|and|or|but|of|in|on|at|to|with|by|for|from|as|is"
    r"|are|that|which|while|near|behind|its|his|her|their))+$",
    re.IGNORECASE,
)


def without_lead(text: str) -> str:
    """A text without "The image shows" and its like, its first letter a capital."""
    rest, again = text, True
    while again:
        again = False
        for lead in _LEADS:
            match = lead.match(rest)
            if match and rest[match.end() :].strip(" .,:;"):
                rest, again = rest[match.end() :].lstrip(), True
    return rest if rest == text else rest[:1].upper() + rest[1:]


def at_most(length: int, text: str, *, cut: bool) -> str:
    """The sentences of a text that fit into `length` characters, or else its words.

    `cut` says that the text has no end: what may be half a sentence or half a word is
    left out. A single word that is too long, as in writings without spaces, is cut
    between characters.
    """
    ends = [at for at in _ends(text) if at <= length]
    if len(text) <= length and (not cut or ends[-1:] == [len(text)]):
        return text
    if ends:
        return text[: ends[-1]]
    words = text[: length + 1]
    if len(text) > length or cut:
        words = words.rpartition(" ")[0]
        clause = words.rpartition(", ")[0]
        words = clause if len(clause) > length // 2 else words
    words = _DANGLING.sub("", words)
    return words or _characters(text[: length + 1], length)


def _ends(text: str) -> list[int]:
    """Where the sentences of a text end."""
    return [
        match.end()
        for match in _END.finditer(text)
        if not _SHORT.search(text[: match.start() + 1]) or match.end() == len(text)
    ]


def _characters(text: str, length: int) -> str:
    """The first characters, without half of one that several code points make."""
    if len(text) <= length:
        return text
    end = length
    while end > 1 and (
        unicodedata.combining(text[end])
        or unicodedata.category(text[end]) in ("Mn", "Me", "Mc", "Sk")
        or "\N{ZERO WIDTH JOINER}" in text[end - 1 : end + 1]
    ):
        end -= 1
    return text[:end]
