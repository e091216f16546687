"""The signature of `fastvlm-mlx convert`."""

from typing import Annotated, Literal

import typer

from fastvlm_mlx.app.commands import options


def convert(
    source: options.Source,
    out: options.OutFolder,
    q_bits: options.QBits = None,
    q_group_size: options.QGroupSize = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(
            "--dtype",
            help="Store unquantized weights in this dtype (default: as they are).",
        ),
    ] = None,
    encoder_from: Annotated[
        str | None,
        typer.Option(
            "--encoder-from",
            metavar="SRC2",
            help="Take the vision encoder from this checkpoint.",
        ),
    ] = None,
    adapter: options.MergedAdapter = None,
    overwrite: options.Overwrite = False,
    refresh: options.Refresh = False,
    # What these two did is `export` now; they only say so.
    coreml: Annotated[bool, typer.Option("--coreml", hidden=True)] = False,
    target: Annotated[str | None, typer.Option("--target", hidden=True)] = None,
) -> None:
    """Convert a FastVLM checkpoint to a folder that loads at once.

    `fastvlm-mlx export` writes what other programs read.
    """
    from fastvlm_mlx.app.export import folder

    folder.refuse_targets(coreml, target)
    folder.run(
        source,
        out,
        q_bits=None if q_bits is None else int(q_bits),
        q_group_size=q_group_size,
        dtype=dtype,
        encoder_from=encoder_from,
        adapter=adapter,
        overwrite=overwrite,
        refresh=refresh,
    )
