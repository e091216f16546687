"""FetchError and its kinds: why the content at a URL could not be had."""


class FetchError(Exception):
    """A URL whose content could not be had; `host` is the one that was asked last."""

    def __init__(self, host: str, message: str = ""):
        super().__init__(message)
        self.host = host


class BadURL(FetchError):
    """No http(s) URL; the message says what is wrong. `redirect` led to it, if any."""

    def __init__(self, message: str, redirect: "BadStatus | None"):
        super().__init__("" if redirect is None else redirect.host, message)
        self.redirect = redirect


class NoAnswer(FetchError):
    """No connection, or not HTTP; `__cause__` has the reason."""


class BadStatus(FetchError):
    """A status that is not a success, with its reason phrase."""

    def __init__(self, host: str, status: int, reason: str):
        super().__init__(host)
        self.status = status
        self.reason = reason


class TooManyRedirects(BadStatus):
    """More redirects than the policy allows."""


class TooLarge(FetchError):
    """More bytes than the policy allows; `announced` if Content-Length said so."""

    def __init__(self, host: str, announced: int | None = None):
        super().__init__(host)
        self.announced = announced


class TooSlow(FetchError):
    """Not complete within the policy's time."""


class Incomplete(FetchError):
    """The connection closed after `received` of `announced` bytes."""

    def __init__(self, host: str, received: int, announced: int):
        super().__init__(host)
        self.received = received
        self.announced = announced


class BadEncoding(FetchError):
    """The body is packed as `name`, which is not unpacked here or does not fit it."""

    def __init__(self, host: str, name: str, damaged: bool):
        super().__init__(host)
        self.name = name
        self.damaged = damaged
