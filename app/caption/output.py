"""Where captions go: what all outputs have, and the file that can be resumed."""

from collections.abc import Set
from pathlib import Path

from fastvlm_mlx.app.caption.find_images import identity
from fastvlm_mlx.app.caption.records import CSV, JSONLines, Record
from fastvlm_mlx.app.lines.form import Contents, Form
from fastvlm_mlx.app.lines.output import LineFile

_FORMS: tuple[Form, ...] = (
    JSONLines(),
    *(CSV(mark, preset=preset) for mark in (",", "\t") for preset in (False, True)),
)


class Output:
    """Where captions go.

    `done` are the identities of images that have a caption; `on_terminal` says that
    captions are shown as they come. `begin` is called once before the first `write`.
    """

    done: Set[str] = frozenset()
    on_terminal: bool = False

    def begin(self) -> None:
        """Prepares for the first record; until now nothing was written."""

    def check(self, image: str) -> None:
        """Checks that the caption of an image would have a place.

        Raises:
            NoPlace: it has none.
        """

    def write(self, record: Record) -> None:
        """Writes a record, whole or not at all.

        Raises:
            NoPlace: that record cannot be written; others may.
            OptionError: no record can be written any more.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Frees what is held."""


class File(LineFile, Output):
    """A JSONL, CSV or TSV file of captions, resumed or begun anew; see `LineFile`.

    Raises:
        OptionError: `path` cannot be written, holds something else, is in use, or was
            made by another model, prompt or preset.
    """

    def __init__(
        self,
        path: str | Path,
        form: Form,
        *,
        model: str,
        prompt: str,
        preset: str | None = None,
        overwrite: bool,
    ):
        contents = contents_of(model, prompt, preset)
        super().__init__(path, form, contents, overwrite=overwrite)


def contents_of(model: str, prompt: str, preset: str | None = None) -> Contents:
    """What the lines of captions are about."""
    return Contents(
        noun="caption",
        labels={"model": model, "prompt": prompt},
        optional={"preset": preset},
        identity=lambda fields: identity(fields["image"]),
        forms=_FORMS,
    )
