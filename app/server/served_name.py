"""Checks the name that clients are to call the model."""

from fastvlm_mlx.errors import OptionError


def check_served_name(name: str | None) -> None:
    """Checks that clients can write `name`.

    Raises:
        OptionError: It is empty, has spaces at its ends, or cannot be printed.
    """
    if name is None:
        return
    if not (name.isprintable() and name.strip() == name and 0 < len(name) <= 100):
        raise OptionError(
            f"--served-name {name[:100]!r}: give 1 to 100 printable characters, without"
            " spaces at the ends"
        )
