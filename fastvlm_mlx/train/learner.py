"""Learner: the loss and the AdamW update as functions of the parameters that learn.

Nothing is kept in the model or in an optimizer object: a step either happened, and
there are new parameters, or it did not. So a step can be repeated after a kill, and one
whose loss is no number leaves nothing behind.

The parameters are float32 whatever the model computes in: in bfloat16 an update of a
thousandth of a weight would be rounded away.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.train.data.batches import Batch
from fastvlm_mlx.train.dropout import DropoutKeys
from fastvlm_mlx.train.loss import answer_loss
from fastvlm_mlx.train.options import TrainOptions

LANGUAGE, PROJECTOR = "language_model.", "projector."

Arrays = dict[str, mx.array]
Moments = dict[str, Arrays]  # AdamW's `m` and `v` of each parameter


class Learner:
    """A model some of whose parameters learn.

    Args:
        names: of the parameters that learn, as in `model.parameters()`.
        dropouts: of `keyed_dropouts(model)`.

    Attributes:
        start: the parameters before the first step. LoRA's factors are drawn anew, by
            `options.seed` alone.
    """

    def __init__(
        self,
        model: FastVLMModel,
        names: Sequence[str],
        options: TrainOptions,
        dropouts: tuple[DropoutKeys, int],
    ):
        flat: Any = tree_flatten(model.parameters())
        given = {name: array for name, array in flat if name in set(names)}
        self.model, self.options = model, options
        self._keys, self._dropouts = dropouts
        self._dtypes = {name: array.dtype for name, array in given.items()}
        self._learning = {
            n.removeprefix(LANGUAGE) for n in given if n.startswith(LANGUAGE)
        }
        start = {name: array.astype(mx.float32) for name, array in given.items()}
        self.start = start | _drawn(start, options.seed)
        # On a CPU compiling means g++, for seconds and for plain SSE2.
        compiled: Callable = (
            mx.compile if device.on_gpu() else lambda function: function
        )
        self._gradients = compiled(self._loss_and_gradients)
        self._loss = compiled(self._held_out_loss)
        self._updated = compiled(self._update)

    @property
    def highest_rate(self) -> float:
        """The language model's highest learning rate, or the connector's where it
        learns alone."""
        return self.options.lr if self._learning else self.options.projector_lr

    def no_moments(self) -> Moments:
        """AdamW's moments before the first step."""
        return {
            name: {"m": mx.zeros_like(array), "v": mx.zeros_like(array)}
            for name, array in self.start.items()
        }

    def gradients(
        self, parameters: Arrays, batch: Batch, key: mx.array
    ) -> tuple[float, Arrays]:
        """The batch's summed loss and its gradients, evaluated.

        Args:
            key: of the dropout, a key of `mx.random`.
        """
        with kernels.switched_off():
            loss, gradients = self._gradients(parameters, key, tuple(batch))
            mx.eval(loss, gradients)
        return number(loss), gradients

    def loss(self, parameters: Arrays, batch: Batch) -> float:
        """The batch's summed loss, without dropout."""
        # The kernels of the CPU may help here, but then two losses would differ by
        # more than the training did.
        with kernels.switched_off():
            return number(self._loss(parameters, tuple(batch)))

    def update(
        self,
        parameters: Arrays,
        moments: Moments,
        gradients: Arrays,
        step: int,
        factor: float,
    ) -> tuple[Arrays, Moments, float]:
        """Parameters and moments after a step, and the gradients' norm; evaluated.

        Args:
            gradients: of the mean loss.
            step: steps done before.
            factor: of the highest learning rates.
        """
        after, moments, norm = self._updated(
            parameters, moments, gradients, mx.array(step), mx.array(factor)
        )
        mx.eval(after, moments, norm)
        return after, moments, number(norm)

    def install(self, parameters: Arrays) -> None:
        """Gives the model these parameters, in its own dtypes."""
        self.model.update(tree_unflatten(list(self._cast(parameters).items())))

    def _cast(self, parameters: Arrays) -> Arrays:
        return {n: array.astype(self._dtypes[n]) for n, array in parameters.items()}

    def _loss_and_gradients(
        self, parameters: Arrays, key: mx.array, batch: tuple[mx.array, ...]
    ) -> tuple[mx.array, Arrays]:
        # Checkpointed layers are computed again after the loss: these keys must still
        # hold then.
        with self._keys.given(key, self._dropouts):
            return mx.value_and_grad(self._training_loss)(parameters, batch)

    def _training_loss(
        self, parameters: Arrays, batch: tuple[mx.array, ...]
    ) -> mx.array:
        self.install(parameters)
        return answer_loss(
            self.model,
            Batch(*batch),
            learning=self._learning,
            checkpoint=self.options.checkpoint,
        )

    def _held_out_loss(
        self, parameters: Arrays, batch: tuple[mx.array, ...]
    ) -> mx.array:
        self.install(parameters)
        return answer_loss(self.model, Batch(*batch))

    def _update(
        self,
        parameters: Arrays,
        moments: Moments,
        gradients: Arrays,
        step: mx.array,
        factor: mx.array,
    ) -> tuple[Arrays, Moments, mx.array]:
        limit = self.options.clip or float("inf")
        clipped, norm = optim.clip_grad_norm(gradients, limit)
        after: Arrays = {}
        moments_after: Moments = {}
        for prefix, rate in (
            (LANGUAGE, self.options.lr),
            (PROJECTOR, self.options.projector_lr),
        ):
            names = [name for name in parameters if name.startswith(prefix)]
            optimizer = optim.AdamW(
                rate, weight_decay=self.options.weight_decay, bias_correction=True
            )
            state: dict[str, Any] = {name: dict(moments[name]) for name in names}
            optimizer.state = state | {"step": step, "learning_rate": rate * factor}
            after |= optimizer.apply_gradients(
                {name: clipped[name] for name in names},
                {name: parameters[name] for name in names},
            )
            stepped: Any = optimizer.state
            moments_after.update({name: stepped[name] for name in names})
        return after, moments_after, norm


def _drawn(parameters: Arrays, seed: int) -> Arrays:
    """Every `lora_a` (in, rank), drawn as mlx-lm does."""
    drawn = {}
    names = sorted(name for name in parameters if name.endswith(".lora_a"))
    for index, name in enumerate(names):
        shape = parameters[name].shape
        limit = shape[0] ** -0.5
        random = np.random.default_rng([seed, index])
        drawn[name] = mx.array(random.uniform(-limit, limit, shape), mx.float32)
    return drawn


def number(scalar: mx.array) -> float:
    """The value of an array of one element."""
    value: Any = scalar.item()
    return float(value)
