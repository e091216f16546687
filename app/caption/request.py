"""What the command line of `caption` asks for, and what cannot go together in it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import session
from fastvlm_mlx.app.caption.presets import PRESETS, Preset

if TYPE_CHECKING:
    from fastvlm_mlx.generation.sampling import Sampling

PROMPT = "Describe the image."


@dataclass(frozen=True)
class Request:
    """The command line of `caption`.

    `prompt` None is that of `preset`, a name in PRESETS, or else PROMPT.
    `out` None or "-" is standard output; `form` is "jsonl", "csv", "tsv", "txt" or
    None: as the name of `out` says; `schema` is the path of a JSON schema;
    `xmp` puts captions into XMP files beside the images.
    """

    paths: tuple[str, ...]
    out: str | None
    form: str | None
    recursive: bool
    overwrite: bool
    batch: int
    prompt: str | None
    schema: Path | None
    model: str | None
    options: session.ConversationOptions
    sampling: "Sampling"
    refresh: bool
    keep_features: int | None = None
    adapter: Path | None = None
    preset: str | None = None
    xmp: bool = False

    @property
    def chosen(self) -> Preset | None:
        """The preset itself."""
        return None if self.preset is None else PRESETS[self.preset]

    @property
    def question(self) -> str:
        """What is asked about every image."""
        if self.chosen is not None:
            return self.chosen.prompt
        return PROMPT if self.prompt is None else self.prompt

    @property
    def answer(self) -> "Sampling":
        """How an answer is made; a preset needs no long one."""
        if self.chosen is None:
            return self.sampling
        least = min(self.sampling.max_tokens, self.chosen.max_tokens)
        return replace(self.sampling, max_tokens=least)


def check(request: Request) -> None:
    """Checks the options.

    Raises:
        UsageError: the prompt is empty, the batch size below 1, or there are two
            questions or outputs.
    """
    if request.xmp:
        for name, value in (
            ("-o", request.out),
            ("--format", request.form),
            ("--schema", request.schema),
        ):
            if value is not None:
                raise session.UsageError(
                    f"--xmp: writes texts and tags beside each image; leave out {name},"
                    " or --xmp"
                )
    if request.preset is not None:
        for name, value in (("-p", request.prompt), ("--schema", request.schema)):
            if value is not None:
                raise session.UsageError(
                    f"--preset {request.preset}: asks its own question; leave out"
                    f" {name}, or --preset"
                )
    if not request.question.strip():
        raise session.UsageError("'-p' is empty; try -p 'Describe the image.'")
    if request.batch < 1:
        raise session.UsageError(f"--batch {request.batch}: must be at least 1")
