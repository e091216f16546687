"""The command line of `convert`: parse, and call conversion.py or coreml_export.py."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A checkpoint: folder, file, zip, hub id or name."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder or package to write.")
    ],
    q_bits: Annotated[
        Literal["4", "8"] | None,
        typer.Option("--q-bits", help="Quantize the language model."),
    ] = None,
    q_group_size: Annotated[
        int | None,
        typer.Option(
            "--q-group-size", help="Weights that share a scale: 32, 64 or 128."
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option("--dtype", help="Type of the other weights; else the source's."),
    ] = None,
    encoder_from: Annotated[
        str | None,
        typer.Option(
            "--encoder-from",
            metavar="SRC2",
            help="Take the encoder from this checkpoint.",
        ),
    ] = None,
    target: Annotated[
        Literal["ios", "mlx-vlm"] | None,
        typer.Option("--target", help="Write what Apple's app or mlx-vlm reads."),
    ] = None,
    coreml: Annotated[
        bool, typer.Option("--coreml", help="Write the encoder as OUT.mlpackage.")
    ] = False,
    precision: Annotated[
        Literal["float16", "float32"] | None,
        typer.Option("--precision", help="Core ML: float32 keeps off the ANE."),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            "--resolution", metavar="R[,R]", help="Core ML: sizes in one package."
        ),
    ] = None,
    compress: Annotated[
        Literal["int8", "int8-block", "palette8", "palette6"] | None,
        typer.Option("--compress", help="Core ML: smaller weights."),
    ] = None,
    image_input: Annotated[
        bool, typer.Option("--image-input", help="Core ML: take a pixel buffer.")
    ] = False,
    projector: Annotated[
        bool, typer.Option("--projector", help="Core ML: give embeddings.")
    ] = False,
    attention: Annotated[
        Literal["batched", "per-head"] | None,
        typer.Option("--attention", help="Core ML: which is faster is measured."),
    ] = None,
    query_chunk: Annotated[
        int | None,
        typer.Option("--query-chunk", help="Core ML: queries at a time, per head."),
    ] = None,
    norm_prescale: Annotated[
        int | None,
        typer.Option("--norm-prescale", help="Core ML: LayerNorm's divisor; 16."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", metavar="PATH", help="Core ML: judge it on this; repeatable."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
) -> None:
    """Convert any FastVLM checkpoint to a folder that loads at once.

    Or, with --coreml or --target, to what other programs read.
    """
    encoder = {
        "precision": precision,
        "resolutions": resolution,
        "compression": compress,
        "image_input": image_input or None,
        "projector": projector or None,
        "attention": attention,
        "query_chunk": query_chunk,
        "norm_prescale": norm_prescale,
        "images": images,
    }
    weights = {
        "q_bits": None if q_bits is None else int(q_bits),
        "q_group_size": q_group_size,
        "dtype": dtype,
        "encoder_from": encoder_from,
    }
    from fastvlm_mlx.app.export import targets

    kind = targets.kind(coreml, target, encoder, weights)
    if kind is not None:
        targets.run(kind, source, out, encoder, weights, overwrite=overwrite)
        return
    from fastvlm_mlx.app.export import folder

    folder.run(source, out, overwrite=overwrite, **weights)


def verify(
    package: Annotated[
        Path, typer.Argument(metavar="PACKAGE", help="An encoder's .mlpackage.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="The checkpoint it was made from."),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", metavar="PATH", help="Compare on this image; repeatable."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Also with every intermediate in float16."),
    ] = False,
    device: Annotated[
        bool,
        typer.Option("--device", help="On a Mac: each unit's latency and operations."),
    ] = False,
) -> None:
    """Compare an encoder package with the model it was made from."""
    from fastvlm_mlx.app.export import targets

    targets.verify(package, model, images or (), strict=strict, device=device)
