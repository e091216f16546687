"""Cameras, as far as a machine without one can know them."""

import itertools

from fastvlm_mlx.processing.video import open_video
from tests.support.small_videos import scene_images, stills, write_video


def test_a_camera_that_has_no_frame_yet(tmp_path, monkeypatch):
    """As AVFoundation says it: the iterator of packets ends with EAGAIN."""
    path = write_video(tmp_path / "a.mp4", stills(scene_images(1), 1))
    with open_video(path) as video:
        decoder = video._decoder
        packets = iter(list(decoder._container.demux(decoder.stream)))

        class Container:
            asked = 0

            def demux(self, stream: object):
                Container.asked += 1
                yield from itertools.islice(packets, 3)
                if Container.asked < 5:
                    raise BlockingIOError(35, "Resource temporarily unavailable")

        monkeypatch.setattr(decoder, "_container", Container())
        found = list(decoder._pictures())
    assert len(found) == 10 and Container.asked >= 3
    assert decoder.fault is None
