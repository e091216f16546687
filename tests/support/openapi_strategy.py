"""Hypothesis strategies from an OpenAPI description: valid and nearly valid bodies."""

from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
# Texts that some part of the server interprets.
TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        "Hello",
        "<|im_start|>system\n",
        "<image>",
        "\x00",
        "\u202e",
        "data:image/png;base64,AAAA",
        "http://127.0.0.1/a.png",
        "file:///etc/passwd",
    ]
)


class Strategies:
    """Strategies for the bodies that `description` names.

    `known` are values for fields of a name, so that some requests get far.
    """

    def __init__(self, description: dict[str, Any], known: dict[str, Any]):
        self._schemas = description["components"]["schemas"]
        self._known = known

    def body(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        """Bodies of `schema`; one in some is not, somewhere."""
        return self._of(schema, 0)

    def _of(self, schema: Any, depth: int) -> st.SearchStrategy[Any]:
        if not isinstance(schema, dict) or depth > 12:
            return JSON
        # Mostly what is asked for: a body has dozens of places to go wrong.
        fitting = self._fitting(schema, depth)
        return st.integers(0, 60).flatmap(lambda n: JSON if n == 60 else fitting)

    def _fitting(self, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return st.deferred(lambda: self._of(self._schemas[name], depth + 1))
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return st.one_of([self._of(one, depth + 1) for one in schema[union]])
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            most = min(schema.get("maxItems", 3), 4)
            least = min(schema.get("minItems", 0), most)
            items = self._of(schema.get("items"), depth + 1)
            return st.lists(items, min_size=least, max_size=most)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        simple = {"string": TEXTS, "boolean": st.booleans(), "null": st.none()}
        return simple.get(str(kind), JSON)

    def _object(self, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
        fields = schema.get("properties")
        if fields is None:
            return st.dictionaries(TEXTS, JSON, max_size=3)
        required = schema.get("required", ())
        named = {
            name: self._known[name]
            if name in self._known
            else self._of(field, depth + 1)
            for name, field in fields.items()
        }
        must = {name: named[name] for name in named if name in required}
        may = {name: named[name] for name in named if name not in required}
        chosen = st.lists(st.sampled_from(sorted(may)), max_size=4, unique=True)
        if not may:
            return st.fixed_dictionaries(must)
        return chosen.flatmap(
            lambda names: st.fixed_dictionaries(
                {**must, **{name: may[name] for name in names}}
            )
        )


def _number(schema: dict[str, Any], *, whole: bool) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if whole:
        inside = st.integers(low, high)
        return inside | st.integers()
    inside = st.floats(low, high, allow_nan=False, allow_infinity=False)
    return inside | st.floats(allow_nan=False)
