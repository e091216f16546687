"""to_mlx.convert: each layout, each option, against the unfolded source."""

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.convert import save_weights, to_mlx
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.weights.weight_files import load_tensors
from tests.support import checkpoints, encoders
from tests.support.assert_close import assert_close
from tests.support.checkpoints import Spec
from tests.support.encoders import MCI, Encoder
from tests.support.train_form_encoder import TrainFormEncoder

WHOLE = ("llava", "transformers", "mlx-community")
BARE = ("mobileclip", "openclip", "encoder", "timm")
UNFUSED = Encoder(fused=False, stem_scale=True, branches=2)
# One fold after another, in float32.
LIMIT = 1e-4


def pixels(size: int = 128) -> mx.array:
    values = np.random.default_rng(5).uniform(0, 1, (2, size, size, 3))
    return mx.array(values.astype(np.float32))


def train_form_features(encoder: Encoder, seed: int = 0) -> mx.array:
    network = TrainFormEncoder(encoders.to_mlx(encoders.build(encoder, seed)))
    return network(pixels()).flatten(1, 2)


def logits(model: FastVLM) -> mx.array:
    """Of an image between two tokens, at every position."""
    visual = model.encode_pixels(pixels()[:1])
    embeddings = model.embed([[1, 2], visual[0], [3]])
    ids = mx.zeros(embeddings.shape[:2], dtype=mx.int32)
    return model.language_model(ids, input_embeddings=embeddings)


def features(model: FastVLM) -> mx.array:
    assert model.vision_tower is not None
    return model.vision_tower(pixels())


def converted(folder: Path, spec: Spec, seed: int = 0, **options) -> FastVLM:
    source = checkpoints.write(folder / "source", spec, seed)
    to_mlx.convert(source, folder / "out", **options)
    return load(folder / "out", dtype="float32")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layout", WHOLE + BARE)
def test_every_layout_gives_the_features_of_its_source(
    layout: str, fused: bool, tmp_path: Path
):
    encoder = Encoder() if fused else UNFUSED
    model = converted(tmp_path, Spec(layout=layout, encoder=encoder))
    assert_close(layout, features(model), train_form_features(encoder), LIMIT)
    assert (model.language_model is None) == (layout in BARE)


@pytest.mark.parametrize("layout", ["llava", "timm", "mobileclip"])
@pytest.mark.parametrize("fused", [True, False])
def test_four_stages_with_squeeze_excite_and_batch_norm(
    layout: str, fused: bool, tmp_path: Path
):
    encoder = Encoder(**{**MCI.__dict__, "fused": fused})
    spec = Spec(layout=layout, encoder=encoder, image_size=64)
    model = converted(tmp_path, spec)
    assert model.config.vision is not None and model.config.vision.stride == 32
    assert_close("mci", features(model), train_form_features(encoder), LIMIT)


def test_layouts_of_one_model_agree(tmp_path: Path):
    wanted = logits(converted(tmp_path / "llava", Spec()))
    for layout in WHOLE[1:]:
        given = logits(converted(tmp_path / layout, Spec(layout=layout)))
        assert_close(layout, given, wanted, 1e-5)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "encoder",
    [
        Encoder(depths=(2, 1, 1, 2, 2), widths=(8, 8, 16, 32, 32), fused=False),
        Encoder(widths=(4, 8, 32, 64, 64), attention_from=2, mlp_ratio=3),
        Encoder(layer_scale=False, fused=False, se_dim=3),
        Encoder(batch_norm=True, se_from=1, fused=False),
        Encoder(depths=(1, 1), widths=(16, 32), attention_from=1, fused=False),
    ],
    ids=["deep", "early attention", "no layer scale", "batch norm", "two stages"],
)
def test_other_sizes(encoder: Encoder, seed: int, tmp_path: Path):
    model = converted(tmp_path, Spec(layout="encoder", encoder=encoder), seed)
    wanted = train_form_features(encoder, seed)
    assert_close("features", features(model), wanted, LIMIT)


def test_the_stored_values_stay_as_they_were(tmp_path: Path):
    spec = Spec(dtype="bfloat16", shards=3, tied=False)
    converted(tmp_path, spec)
    saved = load_tensors(tmp_path / "out" / "model.safetensors")
    for name, array in checkpoints.tensors(spec).items():
        if name.startswith(("model.layers.", "lm_head.")):
            kept = saved[f"language_model.{name}"]
            assert kept.dtype == mx.bfloat16 and mx.array_equal(kept, array), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(dtype: str, tmp_path: Path):
    converted(tmp_path, Spec(), dtype=dtype)
    saved = load_tensors(tmp_path / "out" / "model.safetensors")
    assert {a.dtype for a in saved.values()} == {to_mlx.DTYPES[dtype]}


@pytest.mark.parametrize(("bits", "limit"), [(4, 2.0), (8, 0.2)])
def test_quantizing(bits: int, limit: float, tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec())
    plain = logits(load(source, dtype="float32"))
    out = tmp_path / "out"
    report = to_mlx.convert(source, out, q_bits=bits, q_group_size=32)
    model = load(out, dtype="float32")
    assert_close(f"{bits} bits", logits(model), plain, limit)
    assert_close("encoder", features(model), train_form_features(Encoder()), LIMIT)
    assert model.config.quantization == {"group_size": 32, "bits": bits}
    assert report.bytes < report.source_bytes
    stored = load_tensors(out / "model.safetensors")
    assert "language_model.model.layers.0.mlp.up_proj.scales" in stored


def test_quantising_a_converted_folder_is_the_same(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec())
    first = tmp_path / "first"
    to_mlx.convert(source, first)
    to_mlx.convert(source, tmp_path / "at once", q_bits=4, q_group_size=32)
    to_mlx.convert(first, tmp_path / "later", q_bits=4, q_group_size=32)
    at_once, later = (
        load_tensors(tmp_path / name / "model.safetensors")
        for name in ("at once", "later")
    )
    assert at_once.keys() == later.keys()
    for name in at_once:
        assert mx.array_equal(at_once[name], later[name]), name


def test_shards_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = logits(converted(tmp_path / "one", Spec(shards=2)))
    monkeypatch.setattr(save_weights, "MAX_SHARD_BYTES", 100_000)
    model = converted(tmp_path / "many", Spec())
    assert len(list((tmp_path / "many" / "out").glob("model-*.safetensors"))) > 1
    assert (tmp_path / "many" / "out" / "model.safetensors.index.json").exists()
    assert mx.array_equal(logits(model), plain)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("head", ["none", "equal", "other"])
def test_tied_embeddings_are_told_by_the_tensors(told: bool, head: str, tmp_path: Path):
    spec = Spec(tied=head != "other", config={"tie_word_embeddings": told})
    source = checkpoints.write(tmp_path / "source", spec)
    if head == "equal":
        stored = checkpoints.tensors(spec)
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
        checkpoints.save(source, stored)
    to_mlx.convert(source, tmp_path / "out")
    model = load(tmp_path / "out", dtype="float32")
    assert ("lm_head" in model.language_model) == (head == "other")
    assert model.config.text is not None
    assert model.config.text.tie_word_embeddings == (head != "other")


def test_companions_and_licences_are_copied(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec())
    for name in (
        "LICENSE",
        "LICENSE_MODEL.txt",
        "ACKNOWLEDGEMENTS",
        "added_tokens.json",
    ):
        (source / name).write_text("{}")
    (source / "notes.txt").write_text("not ours to copy")
    to_mlx.convert(source, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "ACKNOWLEDGEMENTS",
        "LICENSE",
        "LICENSE_MODEL.txt",
        "added_tokens.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_progress_ends_at_the_total(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec())
    steps: list[tuple[int, int]] = []
    report = to_mlx.convert(
        source, tmp_path / "out", on_progress=lambda *step: steps.append(step)
    )
    done = [step[0] for step in steps]
    assert done == sorted(done) and steps[-1] == (report.bytes, report.bytes)


def test_existing_output_is_kept_or_replaced(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec())
    out = tmp_path / "out"
    to_mlx.convert(source, out)
    before = (out / "config.json").read_bytes()
    with pytest.raises(OptionError, match="exists already; name another output"):
        to_mlx.convert(source, out, dtype="float16")
    assert (out / "config.json").read_bytes() == before
    to_mlx.convert(source, out, q_bits=4, q_group_size=32, overwrite=True)
    assert json.loads((out / "config.json").read_text())["quantization"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec())

    def interrupt(done: int, total: int):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_mlx.convert(source, tmp_path / "out", on_progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_converted_once_and_again_when_the_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "cache"))
    source = checkpoints.write(tmp_path / "source", Spec(), seed=1)
    calls: list[int] = []
    first = logits(load(source, on_progress=lambda done, _: calls.append(done)))
    told = len(calls)
    assert told
    again = logits(load(source, on_progress=lambda done, _: calls.append(done)))
    assert len(calls) == told and mx.array_equal(first, again)

    checkpoints.write(source, Spec(), seed=2)
    later = source.stat().st_mtime + 5
    os.utime(source / "model.safetensors", (later, later))
    assert not mx.array_equal(logits(load(source)), first)


def test_conversion_names_its_source(tmp_path: Path):
    model = converted(tmp_path, Spec(layout="transformers"))
    assert model.config.source["name"] == "source"
    assert model.config.source["layout"] == "transformers"
    assert model.config.image_size == 128


def test_an_exported_model_needs_an_encoder_from_elsewhere(tmp_path: Path):
    spec = Spec(layout="mlx-export", config={"image_token_index": 151646})
    source = checkpoints.write(tmp_path / "export", spec)
    to_mlx.convert(source, tmp_path / "half")
    assert (tmp_path / "half" / "fastvithd.mlpackage" / "Manifest.json").exists()
    half = load(tmp_path / "half", dtype="float32")
    assert half.vision_tower is None
    with pytest.raises(CheckpointError, match="encoder") as caught:
        half.encode_pixels(pixels()[:1])
    assert "\n" not in str(caught.value)

    donor = checkpoints.write(tmp_path / "donor", Spec(layout="encoder"))
    to_mlx.convert(source, tmp_path / "whole", encoder_from=donor)
    assert not list((tmp_path / "whole").glob("*.mlpackage"))
    whole = load(tmp_path / "whole", dtype="float32")
    wanted = logits(converted(tmp_path / "llava", Spec()))
    assert_close("mended", logits(whole), wanted, 1e-5)


@pytest.mark.parametrize("q_bits", [4, 8])
def test_a_quantized_export(q_bits: int, tmp_path: Path):
    spec = Spec(layout="mlx-export", q_bits=q_bits)
    source = checkpoints.write(tmp_path / "export", spec)
    donor = checkpoints.write(tmp_path / "donor", Spec(layout="encoder"))
    to_mlx.convert(source, tmp_path / "out", encoder_from=donor)
    model = load(tmp_path / "out", dtype="float32")
    wanted = logits(converted(tmp_path / "plain", Spec()))
    assert_close("quantized", logits(model), wanted, {4: 2.0, 8: 0.2}[q_bits])


def test_a_donor_that_does_not_fit_is_refused(tmp_path: Path):
    source = checkpoints.write(tmp_path / "source", Spec(layout="mlx-export"))
    other = Encoder(widths=(4, 8, 16, 32, 32))
    donor = checkpoints.write(tmp_path / "a", Spec(layout="encoder", encoder=other))
    with pytest.raises(
        OptionError, match="^--encoder-from .*: its features are 64 wide"
    ):
        to_mlx.convert(source, tmp_path / "out", encoder_from=donor)
    with pytest.raises(OptionError, match="^--encoder-from .*: has no vision encoder"):
        to_mlx.convert(source, tmp_path / "out", encoder_from=source)
    assert not (tmp_path / "out").exists()
