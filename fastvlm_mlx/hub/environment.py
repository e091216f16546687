"""Reads the environment variables that say how the Hugging Face hub is reached."""

import os
import re
from urllib.parse import urlsplit

from fastvlm_mlx.errors import DownloadError
from fastvlm_mlx.files.cache_dir import hub_cache_dir, is_homeless

_HUB = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_TIMEOUTS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, or huggingface.co.

    Raises:
        DownloadError: HF_ENDPOINT is no web address.
    """
    address = os.environ.get("HF_ENDPOINT", "").strip() or _HUB
    if fault := _address_fault(address):
        secure = f"https://{address.rpartition('://')[2]}"
        if _address_fault(secure):
            secure = _HUB
        raise DownloadError(f"HF_ENDPOINT={address}: {fault}; set HF_ENDPOINT={secure}")
    return address.rstrip("/")


def _address_fault(address: str) -> str:
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError as fault:
        return f"not a web address ({fault})"
    if parts.scheme not in ("http", "https"):
        return "has no https:// before it"
    if not parts.hostname or not address.isprintable() or " " in address:
        return "not a web address"
    return ""


def is_offline() -> bool:
    return offline_variable() is not None


def offline_variable() -> str | None:
    """The variable that forbids to ask the hub, if one does."""
    # The first that is set counts, as in huggingface_hub.
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if value := os.environ.get(name):
            return name if value.upper() in _TRUE else None
    return None


def cache_variable() -> str:
    """The variable that says, or can say, where downloads are kept."""
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    return next((name for name in names if os.environ.get(name)), "HF_HOME")


def proxies() -> dict[str, str]:
    """The variables that name a proxy, as they are spelled, with their values."""
    names = (n for name in _PROXIES for n in (name.lower(), name))
    return {name: value for name in names if (value := os.environ.get(name))}


def check_environment() -> None:
    """Refuses values that huggingface_hub stumbles over without naming them.

    Raises:
        DownloadError: names the variable, its value and the way out.
    """
    endpoint()
    store = hub_cache_dir()
    if is_homeless(store):
        raise DownloadError(
            f"{store}: downloads cannot be kept there, as this user has no home folder;"
            f" set {cache_variable()} to a folder with room that can be written"
        )
    there = next(place for place in (store, *store.parents) if place.exists())
    if not there.is_dir():
        raise DownloadError(
            f"{there}: is no folder, but downloads are kept below it; set"
            f" {cache_variable()} to another folder"
        )
    for name, value in proxies().items():
        address = value if "://" in value else f"http://{value}"
        if _address_fault(re.sub("^socks5h?://", "http://", address)):
            raise DownloadError(
                f"{name}={value}: not a proxy's address; set it to http://HOST:PORT,"
                " or unset it"
            )
    for name in _TIMEOUTS:
        if (value := os.environ.get(name)) and not value.strip().isdecimal():
            raise DownloadError(f"{name}={value}: not a number of seconds; unset it")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (value := os.environ.get(name)) and not os.path.exists(value):
            raise DownloadError(f"{name}={value}: does not exist; unset it")
    token = os.environ.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise DownloadError(
            "HF_TOKEN: holds a space, a line break or a letter that no token has;"
            " set it to the token alone, or unset it"
        )
