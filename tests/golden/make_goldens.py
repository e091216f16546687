"""Makes the small PyTorch goldens beside this file. Needs timm, torch, transformers.

    python tests/golden/make_goldens.py

Each .npz holds one checkpoint (`values`, float16, end to end in the order of the JSON
`index` of names and shapes), an image (`image`, uint8,
to be enlarged 8 times) and what PyTorch computes from the stored values in float32:

- mci.npz: a four-stage relative of MobileCLIP's encoders, unfused, in timm's names,
  with squeeze-excite and BatchNorm before attention.
- multi_scale.npz: five stages with the paper's feature aggregation, by depthwise
  convolution and by average pooling.
- vicuna.npz: a LLaVA of a Llama, whole, with logits.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.layers import LayerNorm2d
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
POSITION = partial(RepConditionalPosEnc, spatial_shape=(7, 7))

Tensors = dict[str, torch.Tensor]


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights and BatchNorm statistics of a trained network's size, all exact
    in float16."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.3, 2.0)
            elif tensor.ndim < 2 and name.endswith("weight"):  # norms
                tensor.normal_(1.0, 0.2)
            elif "gamma" in name:
                tensor.normal_(0.5, 0.2)
            elif tensor.ndim < 2:
                tensor.normal_(0.0, 0.1)
            else:
                tensor.normal_(0.0, tensor[0].numel() ** -0.5)
            tensor.copy_(tensor.half())
    return module.eval()


def encoder(**sizes) -> FastVit:
    network = FastVit(lkc_use_act=True, num_classes=0, global_pool="", **sizes)
    return randomize(network)


def image(seed: int, side: int = 16) -> tuple[np.ndarray, torch.Tensor]:
    """What is stored, and (1, 3, 8 * side, 8 * side) in 0..1."""
    small = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    large = small.repeat(8, axis=0).repeat(8, axis=1).transpose(2, 0, 1)
    return small, torch.from_numpy(large.astype(np.float32) / 255)[None]


def features(network: FastVit, pixels: torch.Tensor) -> torch.Tensor:
    """(1, tokens, dim), row by row: what FastVLM takes from timm's network."""
    x = network.forward_features(pixels)
    return x.flatten(2).transpose(1, 2)


def save(name: str, tensors: Tensors, **results) -> None:
    kept = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    # One array for all: an archive member costs more than most of these tensors.
    flat = np.concatenate([v.numpy().astype(np.float16).ravel() for v in kept.values()])
    index = json.dumps([[key, list(value.shape)] for key, value in kept.items()])
    arrays = {"values": flat, "index": np.frombuffer(index.encode(), np.uint8)}
    arrays |= {key: np.asarray(value) for key, value in results.items()}
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    print(name, (HERE / f"{name}.npz").stat().st_size, "bytes")


def make_mci() -> None:
    network = encoder(
        layers=(1, 1, 2, 1),
        embed_dims=(4, 8, 16, 32),
        mlp_ratios=(3, 3, 3, 3),
        se_downsamples=(False, False, True, True),
        pos_embs=(None, None, None, POSITION),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
    )
    small, pixels = image(1)
    save("mci", network.state_dict(), image=small, features=features(network, pixels))


def five_stages(width: int = 32) -> FastVit:
    return encoder(
        layers=(1, 1, 1, 1, 1),
        embed_dims=(4, 4, 8, width, width),
        mlp_ratios=(2, 2, 2, 2, 2),
        se_downsamples=(False,) * 5,
        downsamples=(False, True, True, True, True),
        pos_embs=(None, None, None, POSITION, POSITION),
        token_mixers=("repmixer",) * 3 + ("attention",) * 2,
        norm_layer=partial(LayerNorm2d, eps=1e-5),
        stem_use_scale_branch=False,
    )


def make_multi_scale() -> None:
    network, stages = five_stages(), (1, 3)
    small, pixels = image(2)
    maps, x = [], network.stem(pixels)
    for stage in network.stages:
        x = stage(x)
        maps.append(x)
    last = network.final_conv(x)
    pools = torch.nn.ModuleDict()
    for stage in stages:
        channels, ratio = maps[stage].shape[1], maps[stage].shape[2] // last.shape[2]
        pool = torch.nn.Sequential()
        conv = torch.nn.Conv2d(
            channels, channels, ratio, ratio, groups=channels, bias=False
        )
        pool.add_module("conv", conv)
        pool.add_module("bn", torch.nn.BatchNorm2d(channels))
        pools[str(stage)] = randomize(pool)
    results = {}
    for kind in ("dwconv", "avgpool"):
        pooled = [
            pools[str(stage)](maps[stage])
            if kind == "dwconv"
            else functional.adaptive_avg_pool2d(maps[stage], last.shape[2:])
            for stage in stages
        ]
        joined = torch.cat([last, *pooled], dim=1)
        results[kind] = joined.flatten(2).transpose(1, 2)
    tensors = network.state_dict()
    tensors |= {f"multi_scale.{k}": v for k, v in pools.state_dict().items()}
    save("multi_scale", tensors, image=small, stages=stages, **results)


def make_vicuna() -> None:
    network, hidden = five_stages(), 16
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    model = randomize(LlamaForCausalLM(config))
    projector = torch.nn.Sequential(
        torch.nn.Linear(64, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
    )
    randomize(projector)
    small, pixels = image(3)
    visual = projector(features(network, pixels))
    random = np.random.default_rng(4)
    before, after = random.integers(3, 384, 7), random.integers(3, 384, 5)
    table = model.get_input_embeddings()
    pieces = [table(torch.from_numpy(before))[None], visual]
    pieces.append(table(torch.from_numpy(after))[None])
    logits = model(inputs_embeds=torch.cat(pieces, dim=1)).logits
    tensors = {
        f"model.vision_tower.vision_tower.model.{k}": v
        for k, v in network.state_dict().items()
    }
    tensors |= {f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}
    tensors |= model.state_dict()
    save(
        "vicuna",
        tensors,
        image=small,
        ids_before=before,
        ids_after=after,
        embeds=visual,
        logits=logits,
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        make_mci()
        make_multi_scale()
        make_vicuna()
