"""Video: frames with their times, chosen where something new is to be seen.

    from fastvlm_mlx.processing.video import open_video, sample

    with open_video("clip.mp4") as video:
        for frame in sample(video):
            print(frame.time, frame.image.size)

Needs PyAV (the extra `video`) once a video is opened. `ChangeDetector` compares any
images. Names are resolved on first use, as in `fastvlm_mlx`.
"""

from fastvlm_mlx.lazy_names import resolver

TYPE_CHECKING = False  # see fastvlm_mlx/__init__.py
if TYPE_CHECKING:
    from fastvlm_mlx.processing.video.change import ChangeDetector
    from fastvlm_mlx.processing.video.decoding import VideoLimits
    from fastvlm_mlx.processing.video.frame import Frame
    from fastvlm_mlx.processing.video.sampling import sample
    from fastvlm_mlx.processing.video.scene_changes import scenes
    from fastvlm_mlx.processing.video.source import Video, open_video

_HOMES = {
    "ChangeDetector": "processing.video.change",
    "Frame": "processing.video.frame",
    "Video": "processing.video.source",
    "VideoLimits": "processing.video.decoding",
    "open_video": "processing.video.source",
    "sample": "processing.video.sampling",
    "scenes": "processing.video.scene_changes",
}

__all__ = [
    "ChangeDetector",
    "Frame",
    "Video",
    "VideoLimits",
    "open_video",
    "sample",
    "scenes",
]


__getattr__ = resolver(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
