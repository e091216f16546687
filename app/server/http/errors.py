"""What a client is told when it gets no answer."""

from fastvlm_mlx.errors import ContextError, FastVLMError, ImageError, OptionError


class APIError(Exception):
    """An HTTP status and a message, one line; each protocol puts it in its own words.

    `param` is the field of the request that is at fault, `code` a word for programs,
    `retry` the seconds after which it is worth trying again.
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

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry is not None:
            headers["retry-after"] = str(self.retry)
        return headers


def busy(message: str) -> APIError:
    """The server has too much to do for now."""
    return APIError(503, message, code="server_busy", retry=1)


def api_error_from(error: Exception) -> APIError:
    """What to tell of an error that came up while a request was answered.

    Of one that nobody foresaw the client learns nothing, since it may say anything.
    """
    if isinstance(error, APIError):
        return error
    codes: dict[type[Exception], str] = {
        ContextError: "context_length_exceeded",
        ImageError: "invalid_image",
        OptionError: "invalid_value",
    }
    if type(error) in codes:
        param = "messages" if not isinstance(error, OptionError) else None
        return APIError(400, str(error), code=codes[type(error)], param=param)
    if isinstance(error, FastVLMError):
        return APIError(400, str(error))
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        return busy("out of memory; ask for less, or try again later")
    return APIError(500, f"the server failed ({type(error).__name__})")
