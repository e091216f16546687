"""How much of everything a client may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    - `body` of one request, `bodies` of all that are being read or answered.
    - `images` and `pixels` of one request, the latter in all its images.
    - `text`: characters of one request. Far beyond any context, but cheap to count.
    - `waiting`: requests in the queue behind the one that is answered.
    - `connections` at once.
    - `header_time`, `body_time`: until the head and the body of a request are here.
    - `answer_time`: in the queue and answering; it then ends as if by max_tokens.
    - `fetch_time`: for the images at addresses.
    - `idle_time`: how long a client may leave its answer unread.
    """

    body: int = 32 << 20
    bodies: int = 256 << 20
    images: int = 16
    pixels: int = 100_000_000
    text: int = 1_000_000
    waiting: int = 32
    connections: int = 128
    header_time: float = 10.0
    body_time: float = 30.0
    answer_time: float = 300.0
    fetch_time: float = 20.0
    idle_time: float = 60.0
