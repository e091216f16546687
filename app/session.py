"""What the commands share: choosing and loading a model, options, usage errors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.errors import OptionError

if TYPE_CHECKING:
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


def open_model(name: str | None, *, refresh: bool = False) -> tuple[str, "FastVLM"]:
    """Loads the given model, or the default one; returns its name and the model.

    `refresh` looks on the hub for a newer revision first; other names have none.
    """
    from fastvlm_mlx.fastvlm import load

    name = choose_model(name)
    if refresh:
        from fastvlm_mlx.hub.locate import locate

        locate(name, refresh=True)
    with terminal.progress("converting") as update:
        return name, load(name, on_progress=update)
