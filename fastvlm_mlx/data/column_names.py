"""What data files call the parts of a row: its image, question and answer."""

from collections.abc import Mapping
from typing import Any

# The first ones are in messages.
IMAGES = ("image", "file", "file_name", "filename", "path", "image_path", "images")
ANSWERS = ("answer", "caption", "text", "response", "output", "completion")
QUESTIONS = ("question", "prompt", "instruction", "query")


def first_value(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of `names` that the row has one for, or None."""
    found = (values[name] for name in names if name in values)
    return next((value for value in found if value not in (None, "", [])), None)
