"""Turns the videos of a chat into images that are labelled with their times.

It is done before a request reaches the model's thread. The rules are those of images:
only bytes that a client sent, or that were fetched from an allowed host, are opened,
and PyAV opens nothing else (`fastvlm_mlx.processing.video.access`).
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec

from PIL import Image

from fastvlm_mlx.app.server.engine.request import Message
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.processing.video import Frame, VideoLimits, open_video, sample
from fastvlm_mlx.processing.video.sampling import few

FRAMES = 8  # of a video; FastVLM was not trained on more images at a time
SIDE = 1536  # pixels; no model here looks at more


def has_videos(messages: Sequence[Message]) -> bool:
    """Whether there is anything for `expand` to do."""
    return any(message.videos for message in messages)


def expand(messages: Sequence[Message], limits: Limits) -> tuple[Message, ...]:
    """`messages` with the frames of their videos in the places of these. It blocks.

    Raises:
        APIError: A video cannot be opened, or decoded within `limits`; it names its
            field.
    """
    if find_spec("av") is None:
        raise APIError(
            400,
            "this server takes no videos: PyAV is missing; send images of them",
            code="unsupported_value",
            param="messages",
        )
    videos = sum(len(message.videos) for message in messages)
    images = sum(len(message.images) for message in messages) - videos
    most = min(FRAMES, (limits.images - images) // videos)
    if most < 1:
        raise APIError(
            400,
            f"{images} images and {videos} videos; at most {limits.images} images may"
            " be in a request, and each video gives one at least",
            code="too_many_images",
            param="messages",
        )
    return tuple(_expanded(message, most, limits) for message in messages)


def _expanded(message: Message, most: int, limits: Limits) -> Message:
    images: list[bytes | str] = []
    fields: list[str] = []
    labels: list[str] = []
    for at, data in enumerate(message.images):
        field = message.field(at)
        found: list[tuple[str, bytes | str]] = [("", data)]
        if at in message.videos:
            assert isinstance(data, bytes)  # URLs were fetched before
            try:
                found = list(_frames(data, most, limits))
            except VideoError as error:
                fault = APIError(400, str(error), code="invalid_video")
                raise fault.at(field) from None
        images += [image for _, image in found]
        labels += [label for label, _ in found]
        fields += [field] * len(found)
    return replace(
        message,
        images=tuple(images),
        fields=tuple(fields),
        labels=tuple(labels),
        videos=frozenset(),
    )


def _frames(data: bytes, most: int, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """At most `most` frames at scene changes: labels and files."""
    allowed = VideoLimits(
        frame_pixels=min(limits.pixels, VideoLimits.frame_pixels),
        pixels=limits.video_pixels,
        seconds=limits.video_time,
    )
    with open_video(data, limits=allowed) as video:
        for frame in few(sample(video), most):
            yield f"frame at {frame.time:.1f} s:", _file(frame)


def _file(frame: Frame) -> bytes:
    image = frame.image
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
