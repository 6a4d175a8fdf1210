"""Pictures of a SubNet: the grid of steps x blocks, as text and as a figure."""

from __future__ import annotations

import io
import math
import string
from typing import TYPE_CHECKING

from exporter.errors import ExportError
from search.core.actions import ACTIONS, Action
from search.core.files import write_atomically
from search.core.liveness import unroll
from search.core.program import plan_program
from search.core.summary import cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search.core.program import Program
    from search.core.subnet import SubNet

GONE = "not needed, not in the graph"
LOOKS: dict[Action | None, tuple[str, str, str]] = {
    **{record.action: (record.symbol, record.colour, record.meaning) for record in ACTIONS},
    None: ("·", "#eef1f4", GONE),
}
"""What becomes of a block: a character, a colour and words for it."""

GRAPHS = string.digits + string.ascii_letters
"""A character for each of the first step graphs; the others share `MANY`."""
MANY, NONE = "*", "·"
LEGEND = 7.0
"""Inches that the legend of a figure needs."""
BARS = " ▁▂▃▄▅▆▇█"


def grid_lines(subnet: SubNet) -> list[str]:
    """One character per step in a line per block, and lines for graphs, MACs and caches; a legend."""
    rows = cells(subnet)
    program = plan_program(subnet, 1)
    lines = {
        name: "".join(LOOKS[row[block]][0] for row in rows)
        for block, name in enumerate(subnet.topology.blocks)
    }
    graphs = dict.fromkeys(range(subnet.steps), NONE)
    graphs |= {call.step: (GRAPHS[call.signature :] or MANY)[0] for call in program.calls}
    lines |= {
        "step": "".join(f"{step:<10}" for step in range(0, subnet.steps, 10))[: subnet.steps],
        "graph": "".join(graphs.values()),
        "MACs": _bars(unroll(subnet).macs, subnet.topology.macs),
        "cache": _bars(program.alive, max(program.alive)),
    }
    width = max(map(len, lines))
    legend = "   ".join(f"{symbol} {meaning}" for symbol, _, meaning in LOOKS.values())
    return [*(f"{name:>{width}} {line}".rstrip() for name, line in lines.items()), legend]


def _bars(values: Sequence[float], most: float) -> str:
    """A bar per value; what is not 0 shows."""
    return "".join(BARS[math.ceil((len(BARS) - 1) * value / max(most, 1))] for value in values)


def draw_grid(subnet: SubNet) -> Figure:
    """The grid over what each step costs, which graph it calls and what is cached after it."""
    from matplotlib.figure import Figure

    height = 1.6 + 0.17 * len(subnet.topology.blocks)
    figure = Figure(
        figsize=(max(4 + 0.13 * subnet.steps, LEGEND), height + 2.4), layout="constrained"
    )
    grid, graphs, cost, cache = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [height, 0.3, 0.9, 0.9], "hspace": 0.02}
    )
    _draw_cells(grid, subnet)
    program = plan_program(subnet, 1)
    _draw_graphs(graphs, program)
    full = subnet.topology.macs
    _draw_bars(cost, [m / full for m in unroll(subnet).macs], "MACs of\na full step", "#1f6f8b")
    cost.set_ylim(0, 1.05)
    megavalues = [alive / 1e6 for alive in program.alive]
    _draw_bars(cache, megavalues, "million values\ncached after it", "#d9883b")
    cache.set_xlabel("step (0 is the noisiest)", fontsize=8)
    return figure


def _draw_cells(axes: Axes, subnet: SubNet) -> None:
    """A cell per step and block, in the colour of its action, with a legend."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    order = list(LOOKS)
    rows = cells(subnet)
    values = [[order.index(row[b]) for row in rows] for b in range(len(subnet.topology.blocks))]
    axes.pcolormesh(
        [step - 0.5 for step in range(subnet.steps + 1)],
        [b - 0.5 for b in range(len(values) + 1)],
        values,
        cmap=ListedColormap([colour for _, colour, _ in LOOKS.values()]),
        vmin=0,
        vmax=len(order) - 1,
        edgecolors="white",
        linewidth=0.6,
    )
    axes.set_yticks(range(len(values)), subnet.topology.blocks, fontsize=7)
    axes.invert_yaxis()
    axes.set_title(subnet.method, fontsize=9)
    handles = [
        Patch(facecolor=colour, edgecolor="#999999", label=meaning)
        for _, colour, meaning in LOOKS.values()
    ]
    axes.legend(
        handles=handles,
        ncols=2,
        fontsize=7,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.04),
    )


def _draw_graphs(axes: Axes, program: Program) -> None:
    """The number of the step graph at each step that makes a call."""
    for call in program.calls:
        colour = f"C{call.signature % 10}"
        axes.bar(call.step, 1, width=1, color=colour, alpha=0.35)
        label = str(call.signature)
        axes.text(call.step, 0.5, label, fontsize=5, ha="center", va="center", rotation=90)
    axes.set_yticks([0.5], ["step graph"], fontsize=7)
    axes.set_ylim(0, 1)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_bars(axes: Axes, values: Sequence[float], label: str, colour: str) -> None:
    axes.bar(range(len(values)), values, color=colour, width=0.8)
    axes.set_ylabel(label, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG, SVG or PDF file, atomically."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        msg = f"cannot draw to {str(path)!r}; give a file that ends in .png, .svg or .pdf"
        raise ExportError(msg)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    write_atomically(path, buffer.getvalue())
