"""What the commands share: choosing and loading a model, options, usage errors."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.errors import OptionError

if TYPE_CHECKING:
    from fastvlm_mlx.adapters.files import Adapter
    from fastvlm_mlx.conversation.attachment import ImageSources
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.fastvlm import FastVLM


class UsageError(OptionError):
    """A combination of options that cannot work; exit code 2, as for a bad option."""

    exit_code = 2


@dataclass(frozen=True)
class ConversationOptions:
    """The system prompt and how images are shown; None is the model's own."""

    system: str | None = None
    fit: str | None = None
    resolution: int | None = None
    tiles: tuple[int, int] | None = None

    def conversation(
        self, model: "FastVLM", images: "ImageSources" = ()
    ) -> "Conversation":
        """A conversation of `model` about `images` with these options."""
        return model.conversation(
            images,
            system=self.system,
            fit=self.fit,
            resolution=self.resolution,
            tiles=self.tiles,
        )


def validated_options(
    system: str | None, fit: str | None, resolution: int | None, tiles: str | None
) -> ConversationOptions:
    """The options as typed, `tiles` such as "2x3", checked before a model is loaded.

    Raises:
        OptionError: one of them cannot be honoured.
    """
    from fastvlm_mlx.processing.image_options import check_resolution, parse_tiles

    if resolution is not None:
        check_resolution(resolution)
    return ConversationOptions(
        system, fit, resolution, None if tiles is None else parse_tiles(tiles)
    )


def choose_model(name: str | None) -> str:
    """The given model, or the default one, which is then named on stderr."""
    if name is None:
        from fastvlm_mlx.hub.locate import choose_default

        name, reason = choose_default()
        terminal.note(f"model: {name} ({reason})")
    return name


def adapter_name(folder: Path) -> str:
    """What an adapter is called: the name of its folder."""
    return Path(os.path.abspath(folder)).name


def tuned_name(model: str, adapter: Path | None) -> str:
    """The name of a model with an adapter on it, such as `demo:flags`."""
    return model if adapter is None else f"{model}:{adapter_name(adapter)}"


def read_adapters(folders: Iterable[Path]) -> "dict[str, Adapter]":
    """The adapters in `folders` by their names.

    Raises:
        AdapterError: one of them cannot be read.
        UsageError: two have one name, or one has a name that the model has.
    """
    from fastvlm_mlx.adapters.files import read_adapter

    found: dict[str, Adapter] = {}
    for folder in folders:
        name = adapter_name(folder)
        # Clients write models' names in any case, and `:latest` for the model itself.
        if name.lower() in {"latest", *(other.lower() for other in found)}:
            raise UsageError(
                f"--adapter {folder}: the name {name} is taken; rename the folder"
            )
        found[name] = read_adapter(folder)
    return found


def keep_features(model: "FastVLM", size: int | None) -> None:
    """Has `model` keep what it encodes on disk, `size` bytes at most; None: nothing.

    A fault in writing is one line on stderr, and the answers go on.
    """
    if size is not None:
        from fastvlm_mlx.model import kept_features

        kept_features.keep_features(model, size, on_fault=terminal.note)


def open_model(
    name: str | None,
    *,
    refresh: bool = False,
    adapter: Path | None = None,
    dtype: str | None = None,
) -> tuple[str, "FastVLM"]:
    """Loads the given model, or the default one; returns its name and the model.

    `refresh` looks on the hub for a newer revision first; other names have none.
    `adapter` is put on the model, and read before anything is downloaded. `dtype` is
    as for `load`.
    """
    from fastvlm_mlx.fastvlm import load

    tuning = None
    if adapter is not None:
        from fastvlm_mlx.adapters.files import read_adapter

        tuning = read_adapter(adapter)
    name = choose_model(name)
    if refresh:
        from fastvlm_mlx.hub.locate import locate

        locate(name, refresh=True)
    with terminal.progress("converting") as update:
        model = load(name, dtype=dtype, on_progress=update)
    if tuning is not None:
        from fastvlm_mlx.adapters.apply import attach

        attach(model, tuning)
    return name, model
