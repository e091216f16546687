"""The one rule by which the server reads host names, in headers and in options."""

import ipaddress
import re

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]*))?")
_MAX_PORT = 65535


def host_name(authority: str) -> str | None:
    """The name in `authority`, a name or address with or without a port.

    It is in lower case and without the dot that may end it; an IPv6 address is in
    brackets and in its shortest form. None if anything else stands beside the name and
    a port.
    """
    match = _HOST.fullmatch(authority.lower())
    if match is None or int((match[2] or "0")[:6]) > _MAX_PORT:
        return None
    name = match[1]
    if not name.startswith("["):
        return name.removesuffix(".") or None
    try:
        return f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
    except ValueError:
        return None
