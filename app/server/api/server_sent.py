"""Writes server-sent events."""

import json
from collections.abc import Mapping


def event(value: Mapping[str, object], name: str = "") -> bytes:
    """One event whose data is `value` as JSON; with a `name` it is of that type."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n" if name else ""
    return head.encode() + b"data: " + text.encode("utf-8", "replace") + b"\n\n"
