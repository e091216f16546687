"""FeatureStore: what the vision tower says of each image, computed once and kept.

While a tower is not trained, its output for an image never changes: it is computed
before the first step, and kept on disk by the content of the image file, so that the
next run computes nothing. What is kept is the projector's input, as the projector may
be trained, in float16: half the size, and a rounding of 1 in 2048 at most.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import mlx.core as mx
import numpy as np

from fastvlm_mlx.data.faults import Faults
from fastvlm_mlx.data.image_identity import content_hash
from fastvlm_mlx.errors import DataError, ImageError, OptionError
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.model.encoder_identity import encoder_hash, encoder_width
from fastvlm_mlx.model.feature_files import (
    DamagedFeatures,
    read_features,
    write_features,
)
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess, select_grid
from fastvlm_mlx.processing.image_source import name_of
from fastvlm_mlx.train.data.samples import Image, Sample

_VERSION = 1  # of the files
_LARGEST_FLOAT16 = 65504.0
_BLOCK = 4096  # bytes: what a file takes at least, its header and a part of a block

# Called with (images done, images in all).
ImageProgress = Callable[[int, int], None]


def features_folder() -> Path:
    """Where features are kept unless a folder is named: in this machine's cache."""
    return cache_dir() / "features"


class FeatureStore:
    """The features of images, read from disk when they are needed.

    Args:
        folder: where they are kept; other models and options may use the same.
        model: its encoder is the one that is asked.
        options: how images are shown; None is the model's own.
        dtype: of what is kept. An image with values beyond float16 is kept as float32.

    Attributes:
        width: of one row of features, the projector's input.

    Raises:
        CheckpointError: the model has no vision encoder, or no projector.
    """

    def __init__(
        self,
        folder: str | Path,
        model: FastVLMModel,
        options: ImageOptions | None = None,
        dtype: mx.Dtype = mx.float16,
    ):
        self._model = model
        self._options = options or ImageOptions.of(model.config)
        self._pinpoints = model.config.grid_pinpoints
        self.dtype = dtype
        self.width = encoder_width(model)
        shown = (_VERSION, self._options, self._pinpoints, str(dtype))
        side = self._options.resolution
        name = hashlib.blake2b(repr(shown).encode(), digest_size=8)
        name.update(encoder_hash(model, side).encode())
        self._root = Path(folder)
        self.folder = self._root / name.hexdigest()
        self._digests: dict[Image, str] = {}
        self._tokens: dict[Image, int] = {}

    def count_tokens(self, image: Image) -> int:
        """Positions that an image takes in the context.

        An image is opened only if the model cuts it into tiles by its size.

        Raises:
            ImageError: it cannot be opened.
        """
        if image not in self._tokens:
            # A Core ML encoder has FastViTHD's stride, which is VisionConfig's default.
            vision = self._model.config.vision or VisionConfig()
            squares = self._squares(image)
            self._tokens[image] = squares * vision.tokens(self._options.resolution)
        return self._tokens[image]

    def _squares(self, image: Image) -> int:
        """The overview, and the tiles; as `preprocess` cuts them."""
        if self._options.tiles is not None:
            rows, columns = self._options.tiles
            return 1 + rows * columns
        if not self._pinpoints:
            return 1
        side = self._options.resolution
        opened = open_image(image, long_side=self._options.page_side)
        width, height = select_grid(*opened.size, self._pinpoints)
        tiles = (width // side) * (height // side)
        return 1 + tiles if tiles > 1 else 1

    def prepare(
        self,
        samples: Sequence[Sample],
        on_progress: ImageProgress | None = None,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> int:
        """Encodes the images that are not kept yet, and returns how many these were.

        Every image is kept as soon as it is encoded: after an interruption, the next
        call goes on. Of several processes that prepare the same images at the same
        time, each begins elsewhere and leaves out what another one has kept.

        Args:
            samples: whose images are needed.
            on_progress: called with (images done, images in all).
            rank, ranks: the number of this process, and of processes.
        Raises:
            DataError: images cannot be opened, the first few named; the others are
                encoded and kept by then.
            OptionError: the disk is full, or the folder cannot be written.
        """
        origins: dict[Image, str] = {}
        for sample in samples:
            for image in sample.images:
                origins.setdefault(image, sample.origin)
        faults = Faults()
        missing: list[Image] = []
        places: set[Path] = set()  # copies of an image have one
        done, total = 0, len(origins)

        def step() -> None:
            nonlocal done
            done += 1
            if on_progress is not None:
                on_progress(done, total)

        for image, origin in origins.items():
            try:
                path = self._path(image)
                if path in places or self._is_kept(image):
                    step()
                else:
                    missing.append(image)
                places.add(path)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                faults.add(_fault(origin, f"{name_of(image)}: {reason}"))
                step()

        def left() -> Iterator[Image]:
            start = rank * len(missing) // ranks
            for image in missing[start:] + missing[:start]:
                if ranks > 1 and self._is_kept(image):
                    step()
                else:
                    yield image

        self._check_space(missing)
        encoded = 0
        with closing(_ahead(self._pixels, left())) as opened:
            for image, pixels in opened:
                try:
                    if isinstance(pixels, ImageError):
                        raise pixels
                    self._encode(image, pixels)
                    encoded += 1
                except ImageError as error:
                    reason = str(error).rpartition("; ")[0] or str(error)
                    faults.add(_fault(origins[image], reason))
                step()
        faults.check("images that cannot be used", "replace {them} or take {them} out")
        return encoded

    def read(self, image: Image) -> mx.array:
        """The features of an image that was prepared: (tokens, width).

        Raises:
            DataError: they are not there any more, or damaged.
        """
        path = self._path(image)
        try:
            return read_features(path)
        except DamagedFeatures as error:
            raise DataError(
                f"{path}: the kept features of {name_of(image)} are gone or damaged;"
                " run the same command again, which makes them anew"
            ) from error

    def _is_kept(self, image: Image) -> bool:
        try:
            features = read_features(self._path(image))
        except DamagedFeatures:
            return False
        self._tokens[image] = len(features)
        return features.shape[1] == self.width

    def _path(self, image: Image) -> Path:
        if image not in self._digests:
            self._digests[image] = content_hash(image)
        digest = self._digests[image]
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def _pixels(self, image: Image) -> np.ndarray | ImageError:
        try:
            opened = open_image(image, long_side=self._options.page_side)
            return preprocess(opened, self._options, self._pinpoints)
        except ImageError as error:
            return error

    def _encode(self, image: Image, pixels: np.ndarray) -> None:
        """Computes and keeps the features of an image.

        Raises:
            ImageError: they are not finite.
            OptionError: they cannot be written.
        """
        # [squares, tokens, width] -> [squares * tokens, width], the overview first
        features = self._model.encode_features(pixels).flatten(0, 1)
        features = features.astype(mx.float32)
        if not mx.isfinite(features).all():
            raise ImageError(
                f"{name_of(image)}: the encoder's features of it are not finite; load"
                " the model as float32"
            )
        beyond = self.dtype == mx.float16 and bool(
            (mx.abs(features) > _LARGEST_FLOAT16).any()
        )
        features = features if beyond else features.astype(self.dtype)
        mx.eval(features)
        path = self._path(image)
        try:
            write_features(path, features)
        except OptionError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise OptionError(f"{self._root}: features of images: {reason}") from error
        self._tokens[image] = len(features)

    def _check_space(self, missing: Sequence[Image]) -> None:
        sizes = 0
        for image in missing:
            try:
                sizes += (
                    self.count_tokens(image) * self.width * self.dtype.size + _BLOCK
                )
            except ImageError:  # named when its turn comes
                continue
        check_free_space(self._root, sizes)


def _fault(origin: str, reason: str) -> str:
    return f"{origin}: {reason}" if origin else reason


def _ahead(
    work: Callable[[Image], np.ndarray | ImageError], images: Iterator[Image]
) -> Generator[tuple[Image, np.ndarray | ImageError], None, None]:
    """Each image with the result of `work`; the next one is opened meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for image in images:
            following = (image, thread.submit(work, image))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
