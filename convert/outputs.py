"""The folders that the converter writes, and how each is recognized as its own.

A folder is one of ours if its config.json, or the program of a Core ML package, names
this program and if there is nothing else in it.
"""

import re
from pathlib import Path

from fastvlm_mlx._version import __version__
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.own_output import OutputKind
from fastvlm_mlx.model.config import FORMAT

PROGRAM = "fastvlm-mlx"

# The encoder in the folder of Apple's app.
IOS_PACKAGE = "fastvithd.mlpackage"

# The key of config.json, in the layouts of other programs, that names who wrote it.
CONVERTER_KEY = "converter"

_IN_PACKAGE = r"Manifest\.json|Data/com\.apple\.CoreML/(\w+\.mlmodel|weights/\w+\.bin)"
_IN_MODEL = "|".join(
    (
        r"config\.json",
        r"model\.safetensors",
        r"model-\d{5}-of-\d{5}\.safetensors",
        r"model\.safetensors\.index\.json",
        r"(tokenizer|tokenizer_config|vocab|added_tokens|special_tokens_map)\.json",
        r"merges\.txt",
        r"(preprocessor|processor)_config\.json",
        r"(LICENSE|ACKNOWLEDGEMENTS|MODEL_CARD)[^/]*",
        rf"[^/]+\.mlpackage/({_IN_PACKAGE})",
    )
)


# What Apple's runner reads of a Core AI folder, and the files of each asset.
COREAI_METADATA = "metadata.json"
_IN_COREAI = "|".join(
    (
        r"metadata\.json",
        r"[^/]+\.aimodel/(main\.(mlirb|hash)|metadata\.json)",
        r"tokenizer/(tokenizer|tokenizer_config)\.json",
        r"(LICENSE|ACKNOWLEDGEMENTS|MODEL_CARD)[^/]*",
    )
)


def converter() -> str:
    """The value of CONVERTER_KEY."""
    return f"{PROGRAM} {__version__}"


def _wrote_model(folder: Path) -> bool:
    try:
        values = read_json(folder / "config.json")
    except CheckpointError:
        return False
    packages = {path.name for path in folder.glob("*.mlpackage")}
    if packages - {IOS_PACKAGE, values.get("coreml_encoder")}:
        return False
    if values.get("model_type") == FORMAT:
        return True
    return str(values.get(CONVERTER_KEY, "")).startswith(f"{PROGRAM} ")


def _wrote_coreai_folder(folder: Path) -> bool:
    try:
        user = read_json(folder / COREAI_METADATA).get("user_data")
    except CheckpointError:
        return False
    named = user.get(CONVERTER_KEY) if isinstance(user, dict) else None
    return str(named).startswith(f"{PROGRAM} ")


def _wrote_package(folder: Path) -> bool:
    # As text, without coremltools: the metadata say "Converted by fastvlm-mlx".
    try:
        programs = list(folder.glob("Data/com.apple.CoreML/*.mlmodel"))
        return any(PROGRAM.encode() in file.read_bytes() for file in programs)
    except OSError:
        return False


MODEL_FOLDER = OutputKind("a model", re.compile(_IN_MODEL), _wrote_model)
PACKAGE = OutputKind("a package", re.compile(_IN_PACKAGE), _wrote_package)
COREAI_ASSET = OutputKind(
    "a Core AI model",
    re.compile(r"main\.(mlirb|hash)|metadata\.json"),
    lambda folder: False,  # only the cache has one by itself, and never replaces it
)
COREAI_FOLDER = OutputKind(
    "a Core AI folder", re.compile(_IN_COREAI), _wrote_coreai_folder
)
