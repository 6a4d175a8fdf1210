"""The loss curves of a training."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path


def draw_losses(folder: Path) -> None:
    """Draw every `loss-*.csv` of a folder into one figure, `loss.png`."""
    logs = sorted(folder.glob("loss-*.csv"))
    figure = Figure(figsize=(3.2 * len(logs), 2.6), layout="constrained")
    for axes, log in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        with log.open() as file:
            rows = list(csv.DictReader(file))
        axes.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows], color="#1f6f8b")
        axes.set(yscale="log", title=rows[0]["stage"], xlabel="step")
    figure.savefig(folder / "loss.png", dpi=110)
