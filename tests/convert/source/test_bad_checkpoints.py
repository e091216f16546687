"""Damaged checkpoints: a one-line error with the remedy, and no output."""

import pickle
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.errors import FastVLMError
from tests.support.damaged_files import (
    DEEP,
    WEIGHTS,
    Case,
    assert_refused,
    cut,
    drop,
    file,
    header,
    index,
    only_pickle,
    put,
    remove,
    tensors,
    write_sound,
)

TOWER = "model.vision_tower.vision_tower.model."
LAYER = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sound(tmp_path_factory.mktemp("sound"))


class Malicious:
    """Unpickling this runs code."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('/tmp/pwned-by-pickle').touch()",))


BN = f"{TOWER}network.0.0.convffn.conv.bn"
DAMAGED = r"model\.safetensors: damaged or incomplete \(.*\); download it again"

CASES: dict[str, Case] = {
    # Files
    "empty weights": ("llava", cut(0), DAMAGED),
    "cut in the length": ("llava", cut(5), DAMAGED),
    "cut in the header": ("llava", cut(300), DAMAGED),
    "cut in the tensors": ("llava", cut(200_000), DAMAGED),
    "last byte missing": ("llava", cut(-1), DAMAGED),
    "text as weights": ("llava", file(WEIGHTS, b"<html>404</html>" * 9), DAMAGED),
    **{
        f"git-lfs pointer for {name}": (
            which,
            file(name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
            f"{name}: is a git-lfs pointer, not the file itself; run `git lfs pull` in",
        )
        for which, name in (
            ("llava", WEIGHTS),
            ("llava", "config.json"),
            ("llava", "tokenizer.json"),
            ("llava", "tokenizer_config.json"),
            ("shards", "model.safetensors.index.json"),
            ("shards", "model-00002-of-00003.safetensors"),
        )
    },
    "header not JSON": ("llava", header(lambda h: h.replace(b":", b";")), DAMAGED),
    "header a list": ("llava", header(lambda h: b"[1, 2]"), DAMAGED),
    "header too deep": ("llava", header(lambda h: DEEP), DAMAGED),
    "offsets outside": (
        "llava",
        header(lambda h: h.replace(b'"data_offsets":[0,', b'"data_offsets":[9,')),
        DAMAGED,
    ),
    "a negative shape": (
        "llava",
        header(lambda h: h.replace(b'"shape":[', b'"shape":[-', 1)),
        DAMAGED,
    ),
    "an unknown dtype": (
        "llava",
        header(lambda h: h.replace(b'"F32"', b'"F4"', 1)),
        "is of dtype 'F4'; get a float32",
    ),
    "no weights": ("llava", remove(WEIGHTS), "no weights there"),
    "nothing at all": (
        "llava",
        lambda f: [p.unlink() for p in f.iterdir()],
        "no weights",
    ),
    "no tokenizer": ("llava", remove("tokenizer.json"), "no tokenizer.json"),
    "tokenizer damaged": ("llava", file("tokenizer.json", b"{}"), "damaged"),
    "no config": ("llava", remove("config.json"), "no config.json beside the weights"),
    # Shards
    "missing shard": (
        "shards",
        remove("model-00002-of-00003.safetensors"),
        "model-00002-of-00003.safetensors: this shard, .*download it too",
    ),
    "missing shard, no index": (
        "shards",
        lambda f: (
            remove("model-00002-of-00003.safetensors")(f),
            remove("model.safetensors.index.json")(f),
        ),
        "shard 2 of 3 is missing; download it too",
    ),
    "index names ../evil": (
        "shards",
        index(lambda m: m.update({LAYER: "../evil.safetensors"})),
        "'../evil.safetensors', which is not a file beside it",
    ),
    "index names an absolute path": (
        "shards",
        index(lambda m: m.update({LAYER: "/etc/passwd"})),
        "'/etc/passwd', which is not a file beside it",
    ),
    "index without a map": ("shards", index(lambda m: m.clear()), "has no weight_map"),
    "index a number": (
        "shards",
        file("model.safetensors.index.json", b"7"),
        "holds a int, not an object",
    ),
    "one tensor in two files": (
        "shards",
        lambda f: (
            remove("model.safetensors.index.json")(f),
            shutil.copy(
                f / "model-00001-of-00003.safetensors",
                f / "model-00002-of-00003.safetensors",
            ),
        ),
        "is in another file too",
    ),
    # Tensors
    "missing tensor": ("llava", tensors(drop(LAYER)), "q_proj.weight is missing"),
    "missing bias": (
        "llava",
        tensors(drop(f"{TOWER}conv_exp.se.reduce.bias")),
        "final_conv.se.fc1.bias is missing",
    ),
    "missing norm": ("llava", tensors(drop(f"{BN}.weight")), "bn.weight is missing"),
    "missing embedding": (
        "llava",
        tensors(drop("model.embed_tokens.weight")),
        "embed_tokens.weight is missing",
    ),
    "missing projector": (
        "llava",
        tensors(lambda s: [s.pop(n) for n in list(s) if "mm_projector" in n]),
        "mm_projector_type is mlp2x_gelu, but the checkpoint's projector has 0 layers",
    ),
    "half a projector": (
        "llava",
        tensors(drop("model.mm_projector.2.weight")),
        "projector.layers.1.weight is missing",
    ),
    "missing stage": (
        "llava",
        tensors(lambda s: [s.pop(n) for n in list(s) if ".network.4." in n]),
        "stages.2|missing",
    ),
    "surplus tensor": (
        "llava",
        tensors(put("model.layers.0.self_attn.extra.weight", 3)),
        "extra.weight is not part of this model",
    ),
    "surplus in the encoder": (
        "llava",
        tensors(put(f"{TOWER}network.3.gate.weight", 3)),
        "gate.weight has no place in a FastViT encoder",
    ),
    "surplus at the top": (
        "llava",
        tensors(put("adapter.weight", 3)),
        "adapter.weight does not belong to the llava layout",
    ),
    "two layouts at once": (
        "llava",
        tensors(
            put("model.vision_tower.vision_tower.model.stem.0.reparam_conv.bias", 4)
        ),
        "are the same part of the model",
    ),
    "another model's tensors": (
        "llava",
        tensors(lambda s: (s.clear(), s.update(bert=mx.ones(3)))),
        "unknown layout .bert.; known are",
    ),
    "wrong shape": ("llava", tensors(put(LAYER, 3, 3)), r"has shape \(3, 3\) where"),
    "wrong rank": ("llava", tensors(put(LAYER, 3)), r"has shape \(3,\) where"),
    "a flat kernel": (
        "llava",
        tensors(put(f"{TOWER}patch_embed.0.reparam_conv.weight", 4, 27)),
        r"has shape \(4, 27\), which is not this layer's",
    ),
    "an oblong kernel": (
        "llava",
        tensors(put(f"{TOWER}network.0.0.token_mixer.reparam_conv.weight", 4, 1, 3, 5)),
        "which is not this layer's",
    ),
    "an even kernel": (
        "llava",
        tensors(put(f"{TOWER}network.0.0.token_mixer.reparam_conv.weight", 4, 1, 4, 4)),
        r"has shape \(4, 4, 4, 1\) where \(4, 3, 3, 1\)",
    ),
    "a short BatchNorm": (
        "llava",
        tensors(put(f"{BN}.running_var", 1)),
        r"running_var has shape \(1,\) for 4 channels",
    ),
    "branches that differ": (
        "train",
        tensors(
            put(
                f"{TOWER}network.0.0.token_mixer.mixer.rbr_scale.conv.weight",
                4,
                4,
                1,
                1,
            )
        ),
        "has branches of shapes",
    ),
    "a projector of another width": (
        "llava",
        tensors(put("model.mm_projector.0.weight", 32, 77)),
        "features are 128 wide, but the projector takes 77",
    ),
    "a projector that is none": (
        "llava",
        tensors(put("model.mm_projector.0.weight", 2, 2, 2)),
        "which is no linear layer's",
    ),
    "whole numbers as weights": (
        "llava",
        tensors(lambda s: s.update({LAYER: mx.ones((32, 32), dtype=mx.int32)})),
        "is of dtype mlx.core.int32, not of floating point",
    ),
    "a name with a newline": (
        "llava",
        tensors(put("model.evil\n\x1b[2Jname", 3)),
        "is not part of this model|does not belong",
    ),
    # Pickles (without torch)
    "a pickle": ("llava", only_pickle(pickle.dumps({"a": 1})), "torch|pickle|plain"),
    "a malicious pickle": (
        "llava",
        only_pickle(pickle.dumps(Malicious())),
        "torch|plain",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_weights(name: str, sound: dict[str, Path], tmp_path: Path):
    assert_refused(CASES[name], sound, tmp_path)
    assert not Path("/tmp/pwned-by-pickle").exists()


@pytest.mark.parametrize("name", ["absent", "notes.txt", "a.gguf"])
def test_no_checkpoint_at_all(name: str, tmp_path: Path):
    if name != "absent":
        (tmp_path / name).write_text("hello")
    with pytest.raises(FastVLMError, match="no such file|not a checkpoint") as caught:
        to_mlx.convert(tmp_path / name, tmp_path / "out")
    assert str(tmp_path / name) in str(caught.value)
