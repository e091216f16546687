"""APIError, an error with an HTTP status, and its mapping from other errors."""

import re
from collections.abc import Mapping

from fastvlm_mlx.errors import ContextError, FastVLMError, ImageError, OptionError


class APIError(Exception):
    """An error response: an HTTP status and a message of one line.

    `param` is the invalid field of the request, `code` a machine-readable word,
    `retry` the seconds of the Retry-After header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry = retry

    def at(self, field: str) -> "APIError":
        """The same error as the fault of `field`."""
        return APIError(
            self.status,
            f"{field}: {self.message}",
            code=self.code,
            param=field,
            retry=self.retry,
        )

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry is not None:
            headers["retry-after"] = str(self.retry)
        return headers


def busy(message: str) -> APIError:
    """503: the server is overloaded for now."""
    return APIError(503, message, code="server_busy", retry=1)


def api_error_from(
    error: Exception, names: Mapping[str, str] | None = None
) -> APIError:
    """The response to an error that was raised while a request was answered.

    `names` are the client's names of the options that the library's messages begin
    with. The message of an unexpected error is not sent: it may quote anything.
    """
    if isinstance(error, APIError):
        return error
    codes: dict[type[Exception], str] = {
        ContextError: "context_length_exceeded",
        ImageError: "invalid_image",
        OptionError: "invalid_value",
    }
    if type(error) in codes:
        message, param = str(error), (names or {}).get("messages", "messages")
        if isinstance(error, OptionError):
            own = re.split(r"\W", message, maxsplit=1)[0]
            param = (names or {}).get(own)
            message = message if param is None else param + message[len(own) :]
        return APIError(400, message, code=codes[type(error)], param=param)
    if isinstance(error, FastVLMError):
        return APIError(400, str(error))
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        return busy("out of memory; ask for less, or try again later")
    return APIError(500, f"the server failed ({type(error).__name__})")


def one_line(text: str) -> str:
    """What a client sent, to be quoted: printable, 103 characters at most."""
    text = "".join(c if c.isprintable() else "?" for c in text[:101])
    return text if len(text) <= 100 else f"{text[:100]}..."
