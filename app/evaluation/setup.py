"""Who answers the questions: a model with its options, or a server."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.errors import OptionError

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


@dataclass(frozen=True)
class Setup:
    """A model and how it is asked.

    - `model`: as on the command line, or with `url` the name that the server knows.
    - `options`, `max_tokens`: how it is asked; `batch` questions at a time.
    - `dtype`: None is the device's own.
    - `url`: of a server that is asked instead; `api_key` is None or its key.
    """

    model: str
    max_tokens: int
    batch: int
    options: session.ConversationOptions = session.ConversationOptions()
    adapter: Path | None = None
    dtype: str | None = None
    encoder: str = "auto"
    compute_units: str | None = None
    refresh: bool = False
    keep_features: int | None = None
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Such as `demo:flags` with an adapter."""
        return session.tuned_name(self.model, self.adapter)

    @property
    def settings(self) -> str:
        """What decides its answers besides its name, such as `resolution=512`."""
        return f"{self.shown_settings}, max-tokens={self.max_tokens}".lstrip(", ")

    @property
    def shown_settings(self) -> str:
        """The options that are not as usual, for people; may be empty."""
        options = self.options
        tiles = None if options.tiles is None else "{}x{}".format(*options.tiles)
        encoder = None if self.encoder in ("auto", "mlx") else self.encoder
        given = {
            "fit": options.fit,
            "resolution": options.resolution,
            "tiles": tiles,
            "system": options.system,
            "dtype": self.dtype,
            "encoder": encoder,
            "url": self.url,
        }
        return ", ".join(f"{key}={v}" for key, v in given.items() if v is not None)


class Models:
    """Opens the models of setups, one at a time; one that fits again is kept."""

    def __init__(self):
        self._key: object = None
        self._model: FastVLM | None = None

    def of(self, setup: Setup) -> "FastVLM":
        """The model of a setup; the one before it is freed, if it is another.

        Raises:
            FastVLMError: it cannot be loaded.
        """
        units = setup.compute_units
        key: tuple[object, ...] = (setup.model, setup.adapter, setup.dtype)
        key = (*key, setup.encoder, units)
        # `auto` may take the package at one resolution, and not at others.
        if setup.encoder == "auto" and packages.check(setup.encoder, units):
            key = (*key, setup.options.resolution)
        if self._model is None or self._key != key:
            self._model = None
            self._model = _opened(setup)
            self._key = key
        return self._model


def check_there(setup: Setup) -> None:
    """Finds the model and the adapter, converting the one if need be.

    Raises:
        FastVLMError: they cannot be found, or read.
    """
    from fastvlm_mlx.model_folder import converted

    if setup.url is not None:
        return
    if setup.adapter is not None:
        session.read_adapters([setup.adapter])
    with terminal.progress("converting") as update:
        converted(setup.model, on_progress=update)


def _opened(setup: Setup) -> "FastVLM":
    may_use_coreml = packages.check(setup.encoder, setup.compute_units)
    name, model = session.open_model(
        setup.model, refresh=setup.refresh, adapter=setup.adapter, dtype=setup.dtype
    )
    if may_use_coreml and setup.encoder == "auto":
        packages.use_only(model, name)
        packages.use_faster(model, name, setup.options.resolution)
    elif may_use_coreml:
        packages.use(model, name, setup.encoder, setup.compute_units)
    session.keep_features(model, setup.keep_features)
    return model


def other_setup(text: str, base: Setup) -> Setup | Path:
    """What `--against` names: a changed setup, or a file of answers.

    A `.jsonl` is a file of answers; `resolution=512`, `tiles=2x2`, `fit=crop` and
    `dtype=bfloat16` change `base`; an `.mlpackage` is its encoder and an adapter's
    folder is put on it. Anything else is a model, asked in the same way.

    Raises:
        OptionError: it cannot be any of these.
    """
    path = Path(os.path.expanduser(text))
    if not text.strip():
        raise session.UsageError(
            "--against is empty; name a model, an adapter, answers or resolution=512"
        )
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        if not path.is_file():
            raise OptionError(f"--against {text}: no such file; check the path")
        return path
    name, equals, value = text.partition("=")
    if equals and not path.exists():
        if base.url is not None:
            raise session.UsageError(
                f"--against {text}: a server chooses that; evaluate without --url"
            )
        return _changed(text, name.strip(), value.strip(), base)
    if path.suffix.lower() == ".mlpackage":
        if not path.is_dir():
            raise OptionError(f"--against {text}: no such package; check the path")
        packages.check(text, None)
        return replace(base, encoder=text, compute_units=None, url=None)
    if (path / "adapter_config.json").is_file():
        if base.url is not None:
            raise session.UsageError(
                f"--against {text}: a server chooses its adapter; evaluate without"
                " --url"
            )
        return replace(base, adapter=path)
    return replace(base, model=text, adapter=None, url=None, api_key=None)


def _changed(text: str, name: str, value: str, base: Setup) -> Setup:
    from fastvlm_mlx.device import DTYPES
    from fastvlm_mlx.processing.image_options import check_resolution, parse_tiles

    options = base.options
    if name == "resolution":
        if not value.isdecimal():
            raise session.UsageError(f"--against {text}: give pixels, resolution=512")
        options = replace(options, resolution=check_resolution(int(value)))
    elif name == "tiles":
        options = replace(options, tiles=parse_tiles(value))
    elif name == "fit" and value in ("pad", "crop", "stretch"):
        options = replace(options, fit=value)
    elif name == "dtype" and value in DTYPES:
        return replace(base, dtype=value)
    else:
        raise session.UsageError(
            f"--against {text}: give resolution=512, tiles=2x2, fit=crop or"
            " dtype=bfloat16, or the name of a model"
        )
    return replace(base, options=options)
