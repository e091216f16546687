"""The ways in which each peer is run: its arithmetic, its memory layout, its BLAS.

A setting is named by its peer and what is particular about it, as in
`transformers-bfloat16-channels_last`; names are what `--only` takes.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OURS = "ours"
_ROOM = "benchmarks.peers"
# What a user of ours gets: released weights are bfloat16 and are computed with as such.
MAIN = "ours-bfloat16"


@dataclass(frozen=True)
class Setting:
    """One way to run one peer.

    Attributes:
        peer: whose it is.
        arithmetic: `float32`, `bfloat16` or `4bit`: the form of the weights.
        model: the folder it reads, a name of `models.py`.
        runtime: the module that answers for it, by its full name.
        options: what the runtime is given besides the model and the resolution.
        variant: what else is particular.
        by_name: runs only if `--only` names it.
    """

    peer: str
    arithmetic: str
    model: str
    runtime: str
    options: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    by_name: bool = False

    @property
    def name(self) -> str:
        parts = (self.peer, self.arithmetic, self.variant)
        return "-".join(part for part in parts if part)

    @property
    def kind(self) -> str:
        """What tells it from the peer's other settings, for a table."""
        bits = self.arithmetic.replace("4bit", "4 bits")
        return ", ".join(part for part in (bits, self.variant) if part)


def _ours(arithmetic: str, model: str, **options: Any) -> Setting:
    return Setting(OURS, arithmetic, model, f"{_ROOM}.ours", {"dtype": None} | options)


def _transformers(arithmetic: str, channels_last: bool) -> Setting:
    return Setting(
        "transformers",
        arithmetic,
        "transformers-float32" if arithmetic == "float32" else "transformers",
        f"{_ROOM}.transformers_runtime",
        {"dtype": arithmetic, "channels_last": channels_last},
        "channels_last" if channels_last else "",
    )


def _mlx_vlm(arithmetic: str, fast_blas: bool = True) -> Setting:
    return Setting(
        "mlx-vlm",
        arithmetic,
        "llava-float32" if arithmetic == "float32" else "llava",
        f"{_ROOM}.mlx_vlm_runtime",
        {"fast_blas": fast_blas},
        "" if fast_blas else "installed",
        by_name=not fast_blas,
    )


SETTINGS = (
    _ours("float32", "ours-float32", dtype="float32"),
    _ours("bfloat16", "llava"),
    _ours("4bit", "ours-4bit"),
    *(
        _transformers(arithmetic, channels_last)
        for arithmetic in ("float32", "bfloat16")
        for channels_last in (False, True)
    ),
    _mlx_vlm("float32"),
    _mlx_vlm("bfloat16"),
    # MLX's own BLAS, which is slow on Linux alone.
    *([_mlx_vlm("float32", fast_blas=False)] if sys.platform == "linux" else []),
)
PEERS = tuple(dict.fromkeys(setting.peer for setting in SETTINGS))
NAMES = (*PEERS, *(setting.name for setting in SETTINGS))


def chosen(only: Iterable[str] | None) -> list[Setting]:
    """The settings that `--only` names, by their names or their peers'; all by default.

    One that runs only by name is not among those of its peer.
    """
    if only is None:
        return [setting for setting in SETTINGS if not setting.by_name]
    wanted = set(only)
    return [
        setting
        for setting in SETTINGS
        if setting.name in wanted or (setting.peer in wanted and not setting.by_name)
    ]
