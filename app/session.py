"""What the commands share: choosing and loading a model, and usage errors."""

from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.errors import OptionError

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


class UsageError(OptionError):
    """A combination of options that cannot work; exit code 2, as for a bad option."""

    exit_code = 2


def choose_model(name: str | None) -> str:
    """The model asked for, or the one there is."""
    if name is None:
        from fastvlm_mlx.hub.locate import choose_default

        name, reason = choose_default()
        terminal.note(f"model: {name} ({reason})")
    return name


def open_model(name: str | None) -> tuple[str, "FastVLM"]:
    """Loads the model asked for, or the one there is; returns its name and itself."""
    from fastvlm_mlx.fastvlm import load

    name = choose_model(name)
    with terminal.progress("converting") as update:
        return name, load(name, on_progress=update)
