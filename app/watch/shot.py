"""What a source gives: an image that may be new, opened only when it is needed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass(frozen=True)
class Shot:
    """One image of a source.

    - `image`: gives the image, RGB; raises FastVLMError if it cannot be opened.
    - `thumbnail`: gives the thumbnail that `ChangeDetector` compares.
    - `position`: its time in a video, in seconds.
    - `name`, `modified`: of a file, and when it was written (seconds of the epoch).
    """

    image: "Callable[[], Image.Image]"
    thumbnail: "Callable[[], np.ndarray]"
    position: float | None = None
    name: str | None = None
    modified: float | None = None

    @classmethod
    def of_image(cls, image: "Image.Image") -> "Shot":
        """A shot of an image that is at hand."""
        from fastvlm_mlx.processing.video.change import thumbnail

        return cls(lambda: image, lambda: thumbnail(image))


class Source(Protocol):
    """Where images come from.

    - `name`: what the lines call it, and messages.
    - `keeps_all`: every shot is looked at, not the newest alone.
    """

    name: str
    keeps_all: bool

    def open(self) -> None:
        """Checks that there is something to watch, before the model is loaded.

        Raises:
            FastVLMError: there is not.
        """

    def shots(self, stop: Event) -> Iterator[Shot]:
        """The images as they come, until the source ends or `stop` is set.

        A thread of its own iterates.

        Raises:
            FastVLMError: it cannot go on.
        """
        ...
