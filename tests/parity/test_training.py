"""A LoRA step is PyTorch's: transformers' Qwen2 with peft's layers, AdamW and cosine.

The labels are built from the rows here, over whole sequences, and the loss is that of
transformers: nothing of ours is used on that side but the weights and the features.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mlx.utils import tree_flatten  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    Qwen2ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from fastvlm_mlx import load  # noqa: E402
from fastvlm_mlx.adapters.spec import ALL_KEYS  # noqa: E402
from fastvlm_mlx.fastvlm import FastVLM  # noqa: E402
from fastvlm_mlx.train.data.batches import batch_order, make_batch  # noqa: E402
from fastvlm_mlx.train.data.rows import Row, build_row  # noqa: E402
from fastvlm_mlx.train.events import Event, Stepped  # noqa: E402
from fastvlm_mlx.train.loop import TrainingSet  # noqa: E402
from fastvlm_mlx.train.options import TrainOptions  # noqa: E402
from fastvlm_mlx.train.run import train  # noqa: E402
from tests.support.learners import KEY, learner  # noqa: E402
from tests.support.torch_qwen2 import qwen2_config  # noqa: E402
from tests.support.training_sets import sample  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    # peft 0.21 asks transformers 5.24 by an older name.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
]

LIMIT = 1e-3
STEPS, ROWS, BATCH = 20, 8, 4
TOKENS = 4
OPTIONS: dict[str, Any] = {
    "rank": 4,
    "scale": 2.0,
    "projector": True,
    "lr": 2e-3,
    "projector_lr": 1e-3,
    "batch": BATCH,
    "epochs": STEPS * BATCH // ROWS,
    "warmup": 0.0,
    "weight_decay": 0.1,
    "patience": 0,
}


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


class Noise:
    """The features of an image, by its name alone."""

    dtype = mx.float16

    def __init__(self, width: int):
        self.width = width

    def read(self, image: Any) -> mx.array:
        number = int(str(image).split("-")[0])
        random = np.random.default_rng(number)
        return mx.array(random.normal(size=(TOKENS, self.width)), mx.float16)


@pytest.fixture
def ours(tiny: str) -> FastVLM:
    return load(tiny, dtype="float32")


@pytest.fixture
def data(ours: FastVLM) -> TrainingSet:
    rows = [build_row(sample(i), ours.tokenizer, [TOKENS]) for i in range(ROWS)]
    assert ours.config.projector is not None
    return TrainingSet(rows, [], Noise(ours.config.projector.dims[0]))


def as_torch(array: Any) -> Any:
    return torch.from_numpy(np.array(array, np.float32))


class Theirs:
    """The reference with our weights and, for its adapter, those of `start`."""

    def __init__(self, model: FastVLM, start: dict[str, mx.array], dora: bool):
        assert model.config.text is not None and model.projector is not None
        text = model.config.text
        base = Qwen2ForCausalLM(qwen2_config(text))
        flat: Any = tree_flatten(model.language_model.parameters())
        missing, surplus = base.load_state_dict(
            {name: as_torch(array) for name, array in flat}, strict=False
        )
        assert not surplus and set(missing) <= {"lm_head.weight"}
        lora = LoraConfig(
            r=OPTIONS["rank"],
            lora_alpha=OPTIONS["rank"] * OPTIONS["scale"],
            target_modules=[key.rpartition(".")[2] for key in ALL_KEYS],
            use_dora=dora,
        )
        self.text = get_peft_model(base, lora)
        layers: list[Any] = []
        for layer in model.projector.layers:
            linear = torch.nn.Linear(*reversed(layer.weight.shape))
            linear.load_state_dict(
                {"weight": as_torch(layer.weight), "bias": as_torch(layer.bias)}
            )
            layers += [torch.nn.GELU()] * bool(layers) + [linear]
        self.projector = torch.nn.Sequential(*layers)
        with torch.no_grad():
            for name, parameter in self.named().items():
                array = as_torch(start[name])
                factor = name.endswith(("lora_a", "lora_b"))
                parameter.copy_(array.T if factor else array)

    def named(self) -> dict[str, Any]:
        """What learns, by our names."""
        leaves = {
            "lora_A.default.weight": "lora_a",
            "lora_B.default.weight": "lora_b",
            "lora_magnitude_vector.default.weight": "m",
        }
        named = {}
        for name, parameter in self.text.named_parameters():
            for theirs, leaf in leaves.items():
                if name.endswith(theirs):
                    path = name.removeprefix("base_model.model.").removesuffix(theirs)
                    named[f"language_model.{path}{leaf}"] = parameter
        for index, layer in enumerate(self.projector[::2]):
            named[f"projector.layers.{index}.weight"] = layer.weight
            named[f"projector.layers.{index}.bias"] = layer.bias
        return named

    def loss(self, rows: Sequence[Row], features: Noise) -> Any:
        """transformers' mean over the labels of padded sequences."""
        table = self.text.get_input_embeddings()
        length = max(map(len, rows)) + 1
        inputs, labels, seen = [], [], []
        for row in rows:
            ids = torch.zeros(length, dtype=torch.long)
            ids[: len(row)] = torch.from_numpy(row.ids).long()
            wanted = torch.full((length,), -100)
            for position, target in zip(row.positions, row.targets, strict=True):
                wanted[position + 1] = int(target)
            ids[len(row)] = int(row.targets[-1])
            embeddings = table(ids)
            visual = self.projector(as_torch(features.read(row.images[0])))
            places = np.flatnonzero(row.feature_rows >= 0)
            first, last = places[0], places[-1] + 1
            assert last - first == TOKENS
            pieces = [embeddings[:first], visual, embeddings[last:]]
            inputs.append(torch.cat(pieces))
            labels.append(wanted)
            seen.append((torch.arange(length) <= len(row)).long())
        return self.text(
            inputs_embeds=torch.stack(inputs),
            attention_mask=torch.stack(seen),
            labels=torch.stack(labels),
        ).loss


def relative(given: Any, wanted: Any) -> float:
    wanted = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(np.asarray(given) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_loss_and_gradients(ours: FastVLM, data: TrainingSet, method: str):
    features: Any = data.features
    plain = load_again(ours)
    with learner(ours, **OPTIONS, method=method) as made:
        random = np.random.default_rng(5)
        at = {
            name: mx.array(random.normal(0, 0.1, array.shape), mx.float32)
            if name.endswith("lora_b")
            else array
            for name, array in made.start.items()
        }
        theirs = Theirs(plain, at, method == "dora")
        assert theirs.named().keys() == at.keys()
        batch = make_batch(data.rows[:BATCH], features, BATCH)
        loss, gradients = made.gradients(at, batch, KEY)
    tokens = sum(len(row.targets) for row in data.rows[:BATCH])
    mean = theirs.loss(data.rows[:BATCH], features)
    mean.backward()
    wanted = mean.item()
    differences = {}
    for name, parameter in theirs.named().items():
        gradient = parameter.grad
        if name.endswith(("lora_a", "lora_b")):
            gradient = gradient.T
        differences[name] = relative(gradients[name] / tokens, gradient.numpy())
    worst = max(differences, key=lambda name: differences[name])
    off = abs(loss / tokens - wanted) / wanted
    print(
        f"{method}: loss {wanted:.6f}, off by {off:.1e}; largest relative"
        f" difference of a gradient {differences[worst]:.1e} ({worst})"
    )
    assert off <= LIMIT and differences[worst] <= LIMIT


def test_twenty_steps(ours: FastVLM, data: TrainingSet):
    features: Any = data.features
    options = TrainOptions(**OPTIONS)
    with learner(ours, **OPTIONS) as made:
        start = made.start
    theirs = Theirs(load_again(ours), start, dora=False)
    given: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            given.append(event.loss)

    train(ours, data, options, on_event=note)
    named = theirs.named()
    groups = [
        {
            "params": [p for n, p in named.items() if n.startswith(prefix)],
            "lr": rate,
        }
        for prefix, rate in (
            ("language_model.", options.lr),
            ("projector.", options.projector_lr),
        )
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
    wanted: list[float] = []
    for epoch in range(options.epochs):
        for chosen in batch_order(data.rows, BATCH, options.seed, epoch):
            loss = theirs.loss([data.rows[index] for index in chosen], features)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(named.values()), options.clip)
            optimizer.step()
            schedule.step()
            wanted.append(loss.item())
    assert len(given) == len(wanted) == STEPS
    off = max(abs(a - b) / b for a, b in zip(given, wanted, strict=True))
    print(
        f"{STEPS} steps: loss {wanted[0]:.4f} to {wanted[-1]:.4f}, off by at most"
        f" {off:.1e}"
    )
    assert wanted[-1] < wanted[0] and off <= LIMIT


def load_again(model: FastVLM) -> FastVLM:
    """The same model without an adapter's layers, whatever `model` is given."""
    copy = FastVLM(model.config)
    copy.load_weights(list(tree_flatten(model.parameters())))  # type: ignore
    return copy
