"""The loss of every stage so far, as one image."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a training machine
from matplotlib import pyplot as plt  # noqa: E402

ORDER = ("pretrain", "symbols", "stage1", "stage1.5", "stage2")


def draw(folder: Path, window: int = 25) -> None:
    """Write `curves.png` from the stages' logs, smoothed over `window` steps."""
    logs = [(name, folder / f"{name}.json") for name in ORDER]
    logs = [
        (name, json.loads(path.read_text())) for name, path in logs if path.exists()
    ]
    figure, axes = plt.subplots(1, len(logs), figsize=(3.2 * len(logs), 2.6))
    for axis, (name, rows) in zip(
        [axes] if len(logs) == 1 else axes, logs, strict=True
    ):
        losses = [row["loss"] for row in rows]
        smooth = [
            sum(part) / len(part)
            for i in range(len(losses))
            if (part := losses[max(0, i - window) : i + 1])
        ]
        axis.plot([row["step"] for row in rows], smooth)
        axis.set(title=name, xlabel="step", yscale="log")
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)
