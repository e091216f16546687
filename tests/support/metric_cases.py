"""Made-up answers to score: words, options and ways of saying them."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

CASES = 400  # of each metric
LEAST = 200  # of them unlike
Case = list[Any]

WORDS = (
    "yes|no|No|not|none|one|two|ten|zero|the|a|an|A|The|stop|Stop sign|coca cola|"
    "COCA-COLA|dont|don't|cant|isnt|its|it's|what's|whats|o'clock|oclock|nokia|Nokia's|"
    "new york|New  York|café|cafe\u0301|Öl|straße|STRASSE|İstanbul|日本語|２０|½|"
    "$5.00|5.00|5|5.0|12,000|12000|1.2e3|50%|50 %|0.5|-3|- 3|3 cm|3cm|1/2|10:30|"
    "10.30|a.m.|U.S.A.|u.s.a|e.g.|p. 12|[red]|(blue)|{x}|re-do|re - do|his/her|"
    'his / her|100+|#1|@home|<b>|`q`|"quoted"|under_score|back\\slash|=|?|!|.|...|'
    "somebody'd|Im|Id've|twas|y'all|yall|nineteen|red, white and blue|red|white|blue"
).split("|")


def phrase(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.choice((1, 1, 1, 2, 3, 5))))


def varied(rng: random.Random, text: str) -> str:
    """A text that is much the same: other case, marks, blanks, a letter off."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        text = rng.choice(
            (
                text.upper(),
                text.lower(),
                text.capitalize(),
                f"{text}.",
                f"{text}..",
                f"the {text}",
                f" {text}  ",
                f"{text}\n",
                text.replace(" ", "  "),
                text.replace("'", ""),
                text[:at] + text[at + 1 :],
                text[:at] + rng.choice("xé,.-' 7%") + text[at:],
                "",
            )
        )
    return text


def pairs(rng: random.Random) -> Iterator[tuple[list[str], str]]:
    """Accepted answers, one to ten, and an answer that is like one or not."""
    for _ in range(CASES):
        right = [phrase(rng) for _ in range(rng.choice((1, 2, 3)))]
        answer = varied(rng, rng.choice(right)) if rng.random() < 0.8 else phrase(rng)
        yield right, answer


OPTIONS = (
    ("cat", "dog", "bird", "none of the above"),
    ("1", "2", "10", "20"),
    ("A dog", "B dog", "red"),
    ("yes", "no"),
    ("The Great Wall", "the wall", "a very long text of an option here", "Wall", "X"),
    ("rouge", "é", "日本", "x+y"),
)
FRAMES = (
    "{l}|{l}.|({l})|{l})|{l}:|{l}. {t}|{l} {t}|{t}|{T}.|Answer: {l}|answer is {l}|"
    "The answer is {l}.|The answer is ({l})|The correct answer is **{l}**. Here is why|"
    "Option {l}|{l} or {m}|({l}) and ({m})|I think it is {t}, not {u}|{l}{m}|{s}|"
    "It could be {l}, but the answer is {m} because of what is seen in the image|"
    "A long sentence that never says which of them is right at all|Z|none|\n{l}\n|"
    "The object in the image is clearly {t} as one can see|{l}, {m}|'{l}'|[{l}]|*{l}*|"
    "A cat is in the image, {l} then|{l}\nBecause {u}|Cannot determine the answer {l}|"
    "the best choice here would be option {l} and also perhaps option {m}|E|{l}, {t}!"
).split("|")


def choice(
    rng: random.Random, frames: Sequence[str] = FRAMES
) -> tuple[tuple[str, ...], str, str]:
    """Options, the right letter, and an answer."""
    options = rng.choice(OPTIONS)
    one, two = rng.randrange(len(options)), rng.randrange(len(options))
    said = rng.choice(frames).format(
        l="ABCDE"[one],
        m="ABCDE"[two],
        s="abcde"[one],
        t=options[one],
        T=options[one].upper(),
        u=options[two],
    )
    right = rng.choice((one, one, two))
    return options, "ABCDE"[right], said


OPEN = (
    "{}|{}.|The answer is {}|So the result is {}.|x = {}|= {}|It could be {} or 7|"
    "Therefore, {}\nfinal {}|The total is 3. Thus the answer is {} dollars|${}|{}%|"
    "First 12,345 then 1.5e3 so {}|about {} m|is|.|x = {}\nthat is all|"
    "a = 5\nb = {}|so\n{}\nis: 3|{} = y\nfinal 9|it is ,\nthus {}|"
).split("|")
