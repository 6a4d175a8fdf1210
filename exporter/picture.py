"""Pictures of a SubNet: the grid of steps x blocks, as text and as a figure."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from exporter.errors import ExportError
from exporter.summary import Cell, cells
from search.files import write_atomically
from search.liveness import unroll

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from search.subnet import SubNet

SYMBOLS = {
    Cell.COMPUTED: "█",
    Cell.DELTA: "+",
    Cell.SKIPPED: "-",
    Cell.HELD: "▒",
    Cell.GONE: "·",
}
COLOURS = {
    Cell.COMPUTED: "#1f6f8b",
    Cell.DELTA: "#8fc1a9",
    Cell.SKIPPED: "#c9b6d9",
    Cell.HELD: "#f2b880",
    Cell.GONE: "#eef1f4",
}
MEANING = {
    Cell.COMPUTED: "computed",
    Cell.DELTA: "input plus cached residual",
    Cell.SKIPPED: "input handed on",
    Cell.HELD: "earlier output read from the cache",
    Cell.GONE: "not needed, not in the graph",
}


def grid_lines(subnet: SubNet) -> list[str]:
    """One line per block, one character per step, and a legend."""
    rows = cells(subnet)
    width = max(len(name) for name in subnet.topology.blocks)
    lines = [
        f"{name:>{width}} {''.join(SYMBOLS[row[block]] for row in rows)}"
        for block, name in enumerate(subnet.topology.blocks)
    ]
    legend = "   ".join(f"{SYMBOLS[cell]} {MEANING[cell]}" for cell in Cell)
    return [*lines, f"{'step':>{width}} {_ruler(subnet.steps)}", legend]


def _ruler(steps: int) -> str:
    return "".join(f"{step:<10}" for step in range(0, steps, 10))[:steps]


def draw_grid(subnet: SubNet) -> Figure:
    """The grid over the cost of each step."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    order = list(Cell)
    rows = cells(subnet)
    values = [[order.index(row[b]) for row in rows] for b in range(len(subnet.topology.blocks))]
    height = 1.6 + 0.17 * len(values)
    figure = Figure(figsize=(4 + 0.13 * subnet.steps, height + 1.3), layout="constrained")
    grid, cost = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [height, 1.1], "hspace": 0.02}
    )
    edges = [step - 0.5 for step in range(subnet.steps + 1)]
    grid.pcolormesh(
        edges,
        [b - 0.5 for b in range(len(values) + 1)],
        values,
        cmap=ListedColormap([COLOURS[cell] for cell in order]),
        vmin=0,
        vmax=len(order) - 1,
        edgecolors="white",
        linewidth=0.6,
    )
    grid.set_yticks(range(len(values)), subnet.topology.blocks, fontsize=7)
    grid.invert_yaxis()
    grid.set_title(subnet.method, fontsize=9)
    handles = [Patch(facecolor=COLOURS[c], edgecolor="#999999", label=MEANING[c]) for c in order]
    grid.legend(
        handles=handles,
        ncols=2,
        fontsize=7,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.04),
    )
    full = subnet.topology.macs
    cost.bar(
        range(subnet.steps), [m / full for m in unroll(subnet).macs], color="#1f6f8b", width=0.8
    )
    cost.set_ylim(0, 1.05)
    cost.set_ylabel("MACs of\na full step", fontsize=7)
    cost.set_xlabel("step (0 is the noisiest)", fontsize=8)
    cost.tick_params(labelsize=7)
    cost.spines[["top", "right"]].set_visible(False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG, SVG or PDF file, whole or not at all."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        msg = f"cannot draw to {str(path)!r}; give a file that ends in .png, .svg or .pdf"
        raise ExportError(msg)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    write_atomically(path, buffer.getvalue())
