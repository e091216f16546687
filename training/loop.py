"""What every stage shares: optimiser, schedule, checkpoints, progress, loss curve."""

import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

WARM_UP = 0.03  # of the run, as in the paper


@dataclass(frozen=True)
class Budget:
    """A run ends after `steps`, or earlier after `minutes` of wall time.

    The learning rate follows whichever is further on, so a run on a busy machine
    still ends with a cosine at zero. Without `minutes` a run is reproducible.
    """

    steps: int
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 to 1."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))


def learning_rate(peak: float, progress: float) -> float:
    """Linear warm-up, then a half cosine down to 1% of the peak."""
    if progress < WARM_UP:
        return peak * (progress / WARM_UP + 0.01)
    turn = math.pi * (progress - WARM_UP) / (1 - WARM_UP)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(turn)))


class Run:
    """One stage of training with its state on disk, under `folder`.

    `modules` are saved and restored by name; only those in `trained` learn.
    Iterate over `steps()`, and hand each step's loss to `update`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        modules: dict[str, nn.Module],
        trained: dict[str, float],
        budget: Budget,
        weight_decay: float = 0.05,
        save_every: int = 100,
    ):
        self.name, self.folder, self.budget = name, folder, budget
        self.modules, self.save_every = modules, save_every
        self.step, self.seconds, self.history = 0, 0.0, []
        groups = []
        for module_name, module in modules.items():
            module.requires_grad_(module_name in trained)
            module.train(module_name in trained)
            if module_name not in trained:
                continue
            parameters = list(module.parameters())
            for decay, chosen in (
                (weight_decay, [p for p in parameters if p.ndim > 1]),
                (0.0, [p for p in parameters if p.ndim <= 1]),
            ):
                group = {"params": chosen, "weight_decay": decay}
                groups.append(group | {"peak": trained[module_name]})
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.pt"
        if self.path.exists():
            self._restore()

    @property
    def finished(self) -> bool:
        return self.budget.progress(self.step, self.seconds) >= 1.0

    def steps(self):
        """Yield step numbers until the budget is spent, saving on the way."""
        bar = tqdm(
            total=self.budget.steps, initial=self.step, desc=self.name,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        started = time.monotonic() - self.seconds
        while not self.finished:
            yield self.step
            self.step += 1
            self.seconds = time.monotonic() - started
            bar.update()
            if self.step % self.save_every == 0:
                self.save()
        bar.close()
        self.save()

    def update(self, loss: torch.Tensor, **shown: torch.Tensor) -> None:
        """One optimiser step at the scheduled rate; `shown` joins the log."""
        progress = self.budget.progress(self.step, self.seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(group["peak"], progress)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimizer.step()
        row = {"step": self.step, "loss": round(loss.item(), 4)}
        row |= {key: round(float(value.detach()), 4) for key, value in shown.items()}
        self.history.append(row)
        if self.step % 50 == 0:
            recent = self.history[-50:]
            keys = recent[-1].keys() - {"step"}
            means = {k: sum(r[k] for r in recent if k in r) / len(recent) for k in keys}
            text = " ".join(f"{k} {v:.3f}" for k, v in sorted(means.items()))
            line = f"{self.name} {self.step} {self.seconds / 60:.1f} min {text}"
            tqdm.write(line, file=sys.stderr)

    def save(self) -> None:
        """Write the state in one move, so that a kill never leaves half a file."""
        state = {name: module.state_dict() for name, module in self.modules.items()}
        state |= {"optimizer": self.optimizer.state_dict()}
        state |= {"step": self.step, "seconds": self.seconds, "history": self.history}
        partial = self.path.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self.path)
        log = self.path.with_suffix(".json")
        log.write_text(json.dumps(self.history))

    def _restore(self) -> None:
        state = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        peaks = [group["peak"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak  # a rate changed since then counts
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
