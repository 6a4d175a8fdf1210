"""What was measured, as one figure: seconds, memory and error of every engine and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

COLOURS = ("#1f6f8b", "#d9822b", "#1e7d4f", "#c0392b")
"""Of the engines, in the order of the rows."""
LARGEST = 900
"""Area of the point with the most memory, in square points."""
UNKNOWN = 60
"""Area of one whose memory is not known."""


def draw_measured(rows: Sequence[dict[str, Any]], taken: dict[str, Any] | None) -> Figure:
    """Seconds against error, with a point per row; its area is the memory, and a ring marks the row that is taken."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    most = max((row["memory_bytes"] or 0 for row in rows), default=0)
    for row in rows:
        memory = row["memory_bytes"]
        axes.scatter(
            row["seconds"],
            row["error"],
            s=LARGEST * memory / most if memory else UNKNOWN,
            color=COLOURS[engines.index(row["engine"]) % len(COLOURS)],
            alpha=0.6,
            edgecolors="#1d2730" if row == taken else "none",
            linewidths=2,
        )
        words = f"{row['engine']}, {row['precision']}" + (
            f", {memory / 1e6:.0f} MB" if memory else ""
        )
        axes.annotate(
            words,
            (row["seconds"], row["error"]),
            xytext=(0, 18),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xlim(0, 1.25 * max(row["seconds"] for row in rows))
    axes.set_ylim(0, 1.4 * max(row["error"] for row in rows) or 1)
    axes.set_xlabel("seconds per run; area: memory of the process; ring: chosen", fontsize=8)
    axes.set_ylabel("error to the\nfull sampler", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
