"""Limits on sizes, counts and times of requests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    - `body`: of one request. `bodies`: of all requests that are read or answered.
    - `images`: of one request. `pixels`: in all images of one request.
    - `video_pixels`, `video_time`: in all frames of one video that are decoded, and for
      decoding them.
    - `text`: characters of one request. Far more than any context, but fast to count.
    - `waiting`: requests in the queue, without the current one.
    - `connections`: open at once.
    - `header_time`, `body_time`: to receive the head and the body of a request.
    - `answer_time`: in the queue and generating; the answer then ends with "length".
    - `fetch_time`: to fetch one image from its URL.
    - `idle_time`: a client may read nothing of its answer.
    """

    body: int = 32 << 20
    bodies: int = 256 << 20
    images: int = 16
    pixels: int = 100_000_000
    video_pixels: int = 20_000_000_000
    video_time: float = 30.0
    text: int = 1_000_000
    waiting: int = 32
    connections: int = 128
    header_time: float = 10.0
    body_time: float = 30.0
    answer_time: float = 300.0
    fetch_time: float = 20.0
    idle_time: float = 60.0
