"""Questions about a scene with their one right answer, phrased in several ways.

A question is asked only where the image settles it: one circle for "what colour is
the circle", a clear margin for places and sizes. Each pair carries its kind, the unit
in which accuracy is reported.
"""

import numpy as np

from training.asking import Asker, Pair, at, found
from training.words import HELD_OUT_WORDS, TRAINING_WORDS
from training.world import COLOUR_NAMES, SHAPES, SIZE, Scene, Shape, Sign

KINDS = (
    "colour", "shape", "count", "position", "yes/no", "largest", "number", "word",
    "describe",
)  # fmt: skip
PLURALS = {kind: kind + "s" for kind in SHAPES} | {"cross": "crosses"}
MARGIN = 9.0  # pixels from the border between two places within which none is asked
DESCRIBE = (
    "Describe the image.",
    "Describe this picture.",
    "What is in the image?",
    "What do you see?",
    "What's in this picture?",
    "Write a caption for this image.",
)


def place(x: float, y: float) -> str:
    """The third of the image a point lies in: "top left", "center", "bottom"..."""
    column = ("left", "", "right")[min(int(3 * x / SIZE), 2)]
    row = ("top", "", "bottom")[min(int(3 * y / SIZE), 2)]
    return f"{row} {column}".strip() or "center"


def settled(x: float, y: float) -> bool:
    """True where `place` is clear: away from the lines between the thirds."""
    third = SIZE / 3
    return all(abs(v - line) > MARGIN for v in (x, y) for line in (third, 2 * third))


def describe(scene: Scene) -> str:
    """A caption: signs first, then shapes from top to bottom and left to right."""
    parts = []
    for sign in scene.signs:
        noun = "number" if sign.text.isdigit() else "word"
        parts.append(f"{_a(sign.board)} sign with the {noun} {sign.text} in {sign.ink}")
    ordered = sorted(scene.shapes, key=lambda s: (int(3 * s.y / SIZE), s.x))
    for shape in ordered:
        where = place(shape.x, shape.y)
        preposition = "in" if where == "center" else "at" if " " in where else "on"
        if where in ("top", "bottom"):
            preposition = "at"
        parts.append(f"{_a(shape.colour)} {shape.kind} {preposition} the {where}")
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{text[0].upper()}{text[1:]}."


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def pairs(scene: Scene, seed: int = 0) -> list[Pair]:
    """Every question that this module can ask about the scene, in fixed order.

    Wording and the made-up halves of yes/no questions follow `seed`.
    """
    rng = np.random.default_rng([scene.seed, seed, 2])
    asker = Asker(rng, scene.held_out)
    asker.ask("describe", describe(scene), *DESCRIBE)
    if scene.shapes:
        _single_shapes(asker, scene.shapes)
        _counts(asker, scene)
        _relations(asker, scene.shapes)
    _existence(asker, scene)
    for sign in scene.signs:
        _sign(asker, sign)
    return asker.pairs


def many(scene: Scene, wordings: int = 3) -> list[Pair]:
    """The pairs of several seeds, each question once: more to learn from an image."""
    asked = (pair for seed in range(wordings) for pair in pairs(scene, seed))
    return list({pair.question: pair for pair in asked}.values())


def _named(shapes: tuple[Shape, ...], shape: Shape) -> str | None:
    """The shortest name that fits this shape alone: "circle", then "red circle"."""
    if sum(s.kind == shape.kind for s in shapes) == 1:
        return shape.kind
    both = sum(s.kind == shape.kind and s.colour == shape.colour for s in shapes)
    return f"{shape.colour} {shape.kind}" if both == 1 else None


def _single_shapes(asker: Asker, shapes: tuple[Shape, ...]) -> None:
    for shape in shapes:
        name = _named(shapes, shape)
        if name == shape.kind:
            asker.ask(
                "colour", shape.colour, f"What colour is the {name}?",
                f"Which colour is the {name}?", f"What is the colour of the {name}?",
                names={name: at(shape)},
            )  # fmt: skip
        if sum(s.colour == shape.colour for s in shapes) == 1:
            asker.ask(
                "shape", shape.kind, f"What shape is {shape.colour}?",
                f"Which shape is {shape.colour}?",
                f"What is the shape of the {shape.colour} object?",
                names={shape.colour: at(shape)},
            )  # fmt: skip
        if name and settled(shape.x, shape.y):
            full = f"{shape.colour} {shape.kind}"
            chosen = name if asker.rng.random() < 0.6 else full
            asker.ask(
                "position", place(shape.x, shape.y), f"Where is the {chosen}?",
                f"Where in the picture is the {chosen}?",
                f"Where can you find the {chosen}?", names={chosen: at(shape)},
            )  # fmt: skip
    if len(shapes) == 1:
        asker.ask(
            "colour", shapes[0].colour, "What colour is the shape?",
            "What colour is the object?", "What colour is it?",
        )  # fmt: skip
        asker.ask(
            "shape", shapes[0].kind, "What shape is this?", "What shape is it?",
            "Which shape is in the picture?", "What shape is in the image?",
        )  # fmt: skip
    ordered = sorted(shapes, key=lambda s: -s.radius)
    if len(ordered) > 1 and ordered[0].radius > 1.25 * ordered[1].radius:
        asker.ask(
            "largest", f"{ordered[0].colour} {ordered[0].kind}",
            "Which shape is the largest?", "What is the biggest shape?",
            "Which object is the largest?",
        )  # fmt: skip


def _counts(asker: Asker, scene: Scene) -> None:
    shapes, rng = scene.shapes, asker.rng
    asker.ask(
        "count", str(len(shapes)), "How many shapes are there?",
        "How many shapes are in the image?", "How many shapes do you see?",
        "Count the shapes.",
    )  # fmt: skip
    kind = shapes[rng.integers(len(shapes))].kind
    number = sum(s.kind == kind for s in shapes)
    many = PLURALS[kind]
    asker.ask(
        "count", str(number), f"How many {many} are there?", f"Count the {many}.",
        f"How many {many} are in the picture?",
    )  # fmt: skip
    colour = shapes[rng.integers(len(shapes))].colour
    number = sum(s.colour == colour for s in shapes)
    asker.ask(
        "count", str(number), f"How many {colour} shapes are there?",
        f"How many shapes are {colour}?", f"Count the {colour} shapes.",
    )  # fmt: skip


def _relations(asker: Asker, shapes: tuple[Shape, ...]) -> None:
    """Left of, right of, above, below: asked of one pair, with a clear margin."""
    rng = asker.rng
    named = [(s, n) for s in shapes if (n := _named(shapes, s))]
    if len(named) < 2:
        return
    first, second = (named[i] for i in rng.permutation(len(named))[:2])
    (a, a_name), (b, b_name) = first, second
    names = {a_name: at(a), b_name: at(b)}
    if abs(a.x - b.x) > 24:
        side = str(rng.choice(["left", "right"]))
        truth = (a.x < b.x) == (side == "left")
        asker.yes_no(
            truth, f"Is the {a_name} to the {side} of the {b_name}?",
            f"Is the {a_name} {side} of the {b_name}?", names=names,
        )  # fmt: skip
    if abs(a.y - b.y) > 24:
        side = str(rng.choice(["above", "below"]))
        truth = (a.y < b.y) == (side == "above")
        asker.yes_no(truth, f"Is the {a_name} {side} the {b_name}?", names=names)


def _existence(asker: Asker, scene: Scene) -> None:
    """Is there a red circle, a circle, a sign? Many are near misses."""
    rng, shapes = asker.rng, scene.shapes
    for _ in range(2):
        colour, kind = str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPES))
        if shapes:
            some = shapes[rng.integers(len(shapes))]
            roll = rng.random()
            if roll < 0.5:
                colour, kind = some.colour, some.kind
            elif roll < 0.7:
                kind = some.kind
            elif roll < 0.9:
                colour = some.colour
        same = [s for s in shapes if (s.colour, s.kind) == (colour, kind)]
        asker.yes_no(
            bool(same), f"Is there {_a(colour)} {kind}?",
            f"Is there {_a(colour)} {kind} in the image?",
            f"Do you see {_a(colour)} {kind}?", names={f"{colour} {kind}": found(same)},
        )  # fmt: skip
    kind = str(rng.choice(SHAPES))
    if shapes and rng.random() < 0.4:
        kind = shapes[rng.integers(len(shapes))].kind
    same = [s for s in shapes if s.kind == kind]
    asker.yes_no(
        bool(same), f"Is there {_a(kind)} in the picture?",
        f"Is there {_a(kind)}?", f"Can you see {_a(kind)}?", names={kind: found(same)},
    )  # fmt: skip
    if rng.random() < 0.5:
        asker.yes_no(
            bool(scene.signs), "Is there a sign?", "Is there any text in the image?",
            "Is there text in the picture?",
        )  # fmt: skip


def _sign(asker: Asker, sign: Sign) -> None:
    rng = asker.rng
    general = (
        "What does it say?", "What does the sign say?", "Read the sign.",
        "What is written on the sign?", "What text is in the image?",
    )  # fmt: skip
    if sign.text.isdigit():
        wordings = (
            "What number is on the sign?", "Which number is shown?",
            "What number do you see?", *general,
        )  # fmt: skip
    else:
        wordings = ("What word is on the sign?", "Which word is shown?", *general)
    kind = "number" if sign.text.isdigit() else "word"
    asker.ask(kind, sign.text, *wordings)
    asker.ask(kind, sign.text, *general)
    asker.ask(
        "colour", sign.board, "What colour is the sign?", "Which colour is the sign?",
        "What is the colour of the sign?",
    )  # fmt: skip
    asker.ask(
        "colour", sign.ink, "What colour is the text?", "What colour are the letters?",
        "What is the colour of the text?",
    )  # fmt: skip
    claim = sign.text
    if rng.random() < 0.5:
        claim = _near_miss(rng, sign.text, asker.held_out)
    right = [t == c for t, c in zip(sign.text, claim, strict=False)]
    places = [(x / SIZE, y / SIZE) for x, y in sign.centres()]
    letters = list(zip(right, places, strict=False))
    letters += [(False, None)] * (len(claim) - len(letters))
    asker.yes_no(
        claim == sign.text, f"Does the sign say {claim}?", f"Does it say {claim}?",
        f"Is {claim} written on the sign?", names={claim: letters},
    )  # fmt: skip
    if settled(sign.x, sign.y):
        asker.ask(
            "position", place(sign.x, sign.y), "Where is the sign?",
            "Where in the picture is the sign?", "Where is the text?",
        )  # fmt: skip


def _near_miss(rng: np.random.Generator, text: str, held_out: bool) -> str:
    """Another word or number, or the same with one character changed."""
    if rng.random() < 0.5 and text.isalpha():
        words = HELD_OUT_WORDS if held_out else TRAINING_WORDS
        return str(rng.choice([w for w in words if w != text]))
    pool = "0123456789" if text.isdigit() else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    at = int(rng.integers(len(text)))
    other = str(rng.choice([c for c in pool if c != text[at]]))
    return text[:at] + other + text[at + 1 :]
