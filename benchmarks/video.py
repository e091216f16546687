"""Measures `video`: what looking for changes costs, saves, and frames described.

    python -m benchmarks.video --model demo

Videos are drawn from the demo's world and written with PyAV. Three tables:

- by size of the frames: milliseconds to decode one that shows nothing new (by the
  clock), and to see that it does not (of the processor);
- how many frames of a still video are encoded, and how many would be without that;
- by the resolution of the encoder: frames described a second, one line each, beside the
  way of mlx-vlm, 16 even frames as images of one question (in the same model: mlx-vlm
  itself reads FastVLM's images in another order).

The last line of stdout is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from fastvlm_mlx import load
from fastvlm_mlx.app.caption.captioner import Captioner
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.video import open_video, sample
from fastvlm_mlx.processing.video.change import difference
from tests.support.small_videos import scene_images, stills, write_video

SIZES = {"480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
SIZES["2160p"] = (3840, 2160)
EVEN = 16  # frames that mlx-vlm takes


def arguments() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.video",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--resolutions", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--frames", type=int, default=50, help="of a size")
    parser.add_argument("--max-tokens", type=int, default=24)
    return parser


def noisy(image: np.ndarray, frames: int) -> Iterator[tuple[float, np.ndarray]]:
    """A still image as a camera gives it, at 25 frames a second."""
    chance = np.random.default_rng(0)
    noise = chance.integers(-6, 7, (8, *image.shape))
    for at in range(frames):
        pixels = np.clip(image + noise[at % 8], 0, 255).astype(np.uint8)
        yield at / 25, pixels


def unchanged(folder: Path, size: tuple[int, int], frames: int) -> dict[str, float]:
    """Milliseconds of one frame: to decode it, and to see that nothing is new."""
    scene = Image.fromarray(scene_images(1)[0]).resize(size)
    path = write_video(folder / "still.mp4", noisy(np.asarray(scene), frames))
    looks: list[float] = []
    begun = time.perf_counter()
    with open_video(path) as video:
        first = None
        for frame in video.frames():
            # Of this thread: other work on the machine does not count.
            before = time.thread_time()
            first = frame.thumbnail if first is None else first
            difference(frame.thumbnail, first)
            looks.append(time.thread_time() - before)
    whole = time.perf_counter() - begun
    decode = (whole - sum(looks)) / len(looks)
    return {
        "decode_ms": round(1000 * decode, 3),
        "look_ms": round(1000 * statistics.median(looks), 3),
    }


def saved(folder: Path) -> dict[str, float]:
    """Encodes of a minute of a still image, at 25 frames a second with noise."""
    path = write_video(folder / "minute.mp4", noisy(scene_images(1)[0], 1500))
    with open_video(path) as video:
        encoded = sum(1 for _ in sample(video))
        return {
            "frames": video.count,
            "encoded": encoded,
            "saved": round(1 - encoded / video.count, 4),
        }


def described(
    model: Any, folder: Path, resolution: int, max_tokens: int
) -> dict[str, float]:
    """Frames a second: a line for each scene, and 16 frames in one question."""
    path = write_video(folder / "scenes.mp4", stills(scene_images(EVEN), 1.0))
    options = ImageOptions.of(model.config, None, resolution, None)
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
    captioner = Captioner(model, "Describe the image.", options, sampling)

    def lines() -> int:
        with open_video(path) as video:
            pixels = [captioner.pixels(frame.image) for frame in sample(video)]
            return len(list(captioner.captions(pixels, 8)))

    def spliced() -> int:
        with open_video(path) as video:
            times = [at + 0.5 for at in range(EVEN)]
            images = [frame.image for frame in video.frames_at(times)]
            model.ask(
                "Describe the video.",
                images,
                resolution=resolution,
                max_tokens=max_tokens,
                ignore_eos=True,
            )
            return len(images)

    found: dict[str, float] = {}
    for name, work in (("scenes", lines), ("spliced", spliced)):
        rates = []
        for _ in range(3):  # the first one compiles
            model.feature_cache.clear()
            begun = time.perf_counter()
            count = work()
            rates.append(count / (time.perf_counter() - begun))
        found[f"{name}_per_s"] = round(max(rates), 2)
    mx.clear_cache()
    return found


def main(given: list[str] | None = None) -> None:
    options = arguments().parse_args(given)
    result: dict[str, Any] = {"unchanged": {}, "described": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print("An unchanged frame       decode  and look (ms)")
        for name in options.sizes:
            found = unchanged(folder, SIZES[name], options.frames)
            result["unchanged"][name] = found
            print(f"{name:20} {found['decode_ms']:10.2f} {found['look_ms']:9.2f}")
        result["saved"] = found = saved(folder)
        print(
            f"A still minute: {found['encoded']:g} of {found['frames']:g} frames"
            f" encoded, {found['saved']:.2%} saved"
        )
        model = load(options.model)
        print("Frames described a second   a line each  16 in one question")
        for resolution in options.resolutions:
            found = described(model, folder, resolution, options.max_tokens)
            result["described"][resolution] = found
            print(
                f"{resolution:4} px {found['scenes_per_s']:28.2f}"
                f" {found['spliced_per_s']:15.2f}"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
