"""The signatures of `fastvlm-mlx export coreml`, `coreai`, `ios` and `mlx-vlm`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fastvlm_mlx.app.commands import options

Precision = Annotated[
    Literal["float16", "float32"],
    typer.Option(
        "--precision",
        help="Store weights and compute in this; float32 runs on CPU and GPU only.",
    ),
]
Resolutions = Annotated[
    str | None,
    typer.Option(
        "--resolution",
        metavar="R[,R...]",
        help="Take images of R x R pixels; several share weights (default: model's).",
    ),
]
Compress = Annotated[
    Literal["int8", "int8-block", "palette8", "palette6"] | None,
    typer.Option("--compress", help="Compress the weights of the 1x1 convolutions."),
]
Attention = Annotated[
    Literal["batched", "per-head"],
    typer.Option(
        "--attention",
        help="Write attention for CPU and GPU (batched) or Neural Engine (per-head).",
    ),
]
QueryChunk = Annotated[
    int | None,
    typer.Option(
        "--query-chunk", help="Attend this many queries at a time (per-head only)."
    ),
]
NormPrescale = Annotated[
    int,
    typer.Option(
        "--norm-prescale",
        help="Divide LayerNorm's input by this power of two, against overflow.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="PATH",
        help="Compare with the MLX encoder on this image; repeatable.",
        callback=options.expand_homes,
    ),
]

export = typer.Typer(
    name="export",
    help="Write the model in the format of another program.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@export.command()
def coreml(
    source: options.Source,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The package to write: OUT.mlpackage.",
            callback=options.expand_home,
        ),
    ],
    precision: Precision = "float16",
    resolution: Resolutions = None,
    compress: Compress = None,
    image_input: Annotated[
        bool,
        typer.Option("--image-input", help="Take a pixel buffer instead of floats."),
    ] = False,
    projector: Annotated[
        bool,
        typer.Option(
            "--projector",
            help="Include the projector: output language-model embeddings.",
        ),
    ] = False,
    attention: Attention = "batched",
    query_chunk: QueryChunk = None,
    norm_prescale: NormPrescale = 16,
    images: Images = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the vision encoder as a Core ML package."""
    from fastvlm_mlx.app.export import coreml

    coreml.run(
        source,
        coreml.package_path(out),
        coreml.encoder_options(
            precision=precision,
            resolution=resolution,
            compression=compress,
            image_input=image_input,
            projector=projector,
            attention=attention,
            query_chunk=query_chunk,
            norm_prescale=norm_prescale,
        ),
        images=images or (),
        overwrite=overwrite,
    )


@export.command()
def coreai(
    source: options.Source,
    out: options.OutFolder,
    precision: Precision = "float16",
    resolution: Resolutions = None,
    compress: Annotated[
        Literal["int8", "int8-block", "int4-block"] | None,
        typer.Option(
            "--compress", help="Compress the weights of the 1x1 convolutions."
        ),
    ] = None,
    projector: Annotated[
        bool,
        typer.Option(
            "--projector/--no-projector",
            help="Output language-model embeddings, or the encoder's features.",
        ),
    ] = True,
    norm_prescale: NormPrescale = 16,
    q_bits: Annotated[
        Literal["4", "8"] | None,
        typer.Option("--q-bits", help="Quantize the language model to this many bits."),
    ] = None,
    context: Annotated[
        int,
        typer.Option("--context", help="Hold this many tokens in the caches."),
    ] = 4096,
    images: Images = None,
    adapter: options.MergedAdapter = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the folder that Apple's Core AI runner reads (macOS 27)."""
    from fastvlm_mlx.app.export import coreai, coreml
    from fastvlm_mlx.convert.coreai.options import CoreAIOptions

    coreai.run(
        source,
        coreai.folder_path(out),
        CoreAIOptions(
            precision=precision,
            resolutions=coreml.resolutions(resolution),
            projector=projector,
            compression=compress,
            norm_prescale=norm_prescale,
            context=context,
            q_bits=None if q_bits is None else int(q_bits),
        ),
        images=images or (),
        adapter=adapter,
        overwrite=overwrite,
    )


@export.command()
def ios(
    source: options.Source,
    out: options.OutFolder,
    q_bits: Annotated[
        Literal["4", "8", "none"],
        typer.Option("--q-bits", help="Quantize the language model to this many bits."),
    ] = "8",
    q_group_size: options.QGroupSize = None,
    precision: Precision = "float16",
    resolution: Resolutions = None,
    compress: Compress = None,
    attention: Attention = "batched",
    query_chunk: QueryChunk = None,
    norm_prescale: NormPrescale = 16,
    images: Images = None,
    adapter: options.MergedAdapter = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the model folder that Apple's FastVLM app reads."""
    from fastvlm_mlx.app.export import coreml, ios

    ios.run(
        source,
        out,
        coreml.encoder_options(
            precision=precision,
            resolution=resolution,
            compression=compress,
            attention=attention,
            query_chunk=query_chunk,
            norm_prescale=norm_prescale,
        ),
        q_bits=None if q_bits == "none" else int(q_bits),
        q_group_size=q_group_size or 64,
        images=images or (),
        adapter=adapter,
        overwrite=overwrite,
    )


@export.command("mlx-vlm")
def mlx_vlm(
    source: options.Source,
    out: options.OutFolder,
    q_bits: options.QBits = None,
    q_group_size: options.QGroupSize = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option("--dtype", help="Store unquantized weights in this dtype."),
    ] = "bfloat16",
    adapter: options.MergedAdapter = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the folder that mlx-vlm and mlx-swift-lm read."""
    from fastvlm_mlx.app.export import mlx_vlm

    mlx_vlm.run(
        source,
        out,
        dtype=dtype,
        q_bits=None if q_bits is None else int(q_bits),
        q_group_size=q_group_size or 64,
        adapter=adapter,
        overwrite=overwrite,
    )
