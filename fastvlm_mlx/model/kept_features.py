"""KeptFeatures: embeddings of images on disk, beneath the cache in memory.

A program that is started again encodes no image that it has seen. The name of a file
is a hash of the pixels that the encoder is given, in a folder named by a hash of the
encoder's and the projector's weights: fit, resolution and tiles change the pixels, and
another model has another folder. Several processes may share everything.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from fastvlm_mlx._version import __version__
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.model.encoder_identity import encoder_hash
from fastvlm_mlx.model.feature_files import (
    DamagedFeatures,
    array_hash,
    read_features,
    write_features,
)

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

LIMIT = 10**9  # bytes; an image of the 0.5B model takes 0.5 MB
_ROOM = 0.9  # of the limit that is used once something had to be deleted
_RECOUNT = 64  # writes after which those of other processes are counted too
_UNFINISHED = 3600.0  # seconds; nobody writes one file for so long
_BLOCK = 4096  # bytes: what a file takes at least


def kept_features_folder() -> Path:
    """Where features of images are kept: in this machine's cache."""
    return cache_dir() / "image-features"


def kept_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file in `folder` was used last, its bytes on disk and its path.

    What a killed process left unfinished is deleted.
    """
    for path in folder.rglob("*.safetensors*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.suffix == ".safetensors":
                size = -(-status.st_size // _BLOCK) * _BLOCK
                yield status.st_mtime, size, path
            elif time.time() - status.st_mtime > _UNFINISHED:
                path.unlink()


def keep_features(
    model: "FastVLMModel",
    limit: int = LIMIT,
    folder: Path | None = None,
    on_fault: Callable[[str], None] | None = None,
) -> None:
    """Keeps on disk what `model` says of images from now on, and reads what is there.

    Args:
        model: its `feature_cache` is used.
        limit: bytes at most; the least recently used are deleted first.
        folder: where; None is `kept_features_folder()`.
        on_fault: called once with one line if nothing can be written.
    """
    place = kept_features_folder() if folder is None else folder
    model.feature_cache.keep_on_disk(
        KeptFeatures(place, limit, lambda: features_identity(model), on_fault)
    )


def features_identity(model: "FastVLMModel") -> str:
    """A hash of what an image's embeddings depend on besides its pixels."""
    digest = hashlib.blake2b(digest_size=16)
    config = model.config
    device = mx.default_device()
    shown = (__version__, str(device.type), repr(config.vision), repr(config.projector))
    digest.update(repr(shown).encode())
    digest.update(encoder_hash(model, config.image_size).encode())
    if model.projector is not None and not (model.encoder and model.encoder.projected):
        tensors: Any = tree_flatten(model.projector.parameters())
        for name, array in sorted(tensors, key=lambda pair: pair[0]):
            digest.update(f"{name}{array_hash(array)}".encode())
    return digest.hexdigest()


class KeptFeatures:
    """Embeddings of images in files, at most `limit` bytes of them.

    Nothing that goes wrong with the disk stops an answer: what cannot be read is made
    anew, and from the first fault in writing on nothing is written.

    Args:
        folder: where the files lie; other models and processes may use it too.
        limit: in bytes, of all files in it.
        identity: a hash of the weights; called once, when it is first needed.
        on_fault: called once with one line if nothing can be written.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        identity: Callable[[], str],
        on_fault: Callable[[str], None] | None = None,
    ):
        self.folder = folder
        self.limit = limit
        self._make_identity = identity
        self._on_fault = on_fault
        self._identity: str | None = None
        self._size: int | None = None  # of all files, as far as is known
        self._writes = 0
        self._is_broken = False
        self._lock = threading.RLock()

    def renew(self) -> None:
        """Has `identity` called again: the model's weights have changed."""
        with self._lock:
            self._identity = None

    def get(self, digest: str) -> mx.array | None:
        """The embeddings of the image with these pixels, (tokens, hidden), if kept."""
        path = self._path(digest)
        try:
            features = read_features(path)
        except DamagedFeatures:
            # A reader of the old file keeps it; the next `put` makes a whole one.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is deleted last
        return features

    def put(self, digest: str, features: mx.array) -> None:
        """Keeps the embeddings of an image, (tokens, hidden), as they are."""
        size = features.nbytes + _BLOCK
        if self._is_broken or size > self.limit or not mx.isfinite(features).all():
            return
        with self._lock:
            try:
                path = self._path(digest)
                write_features(path, features)
                self._count(size)
            except (OptionError, OSError) as error:
                self._is_broken = True
                if self._on_fault is not None:
                    self._on_fault(f"features of images are not kept: {error}")

    def _path(self, digest: str) -> Path:
        with self._lock:
            if self._identity is None:
                self._identity = self._make_identity()
            name = f"{digest}.safetensors"
            return self.folder / self._identity / digest[:2] / name

    def _count(self, size: int) -> None:
        self._writes += 1
        if self._size is None or self._writes % _RECOUNT == 0:
            self._size = sum(size for _, size, _ in kept_files(self.folder))
        else:
            self._size += size
        if self._size > self.limit:
            self._size = self._shrink()

    def _shrink(self) -> int:
        """Deletes the least recently used; returns how many bytes are left."""
        files = sorted(kept_files(self.folder))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit * _ROOM:
                break
            with contextlib.suppress(OSError):  # a neighbour was faster
                path.unlink()
            total -= size
        return total
