"""A comparison as tables and a figure."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table

from engines.bench.records import ContenderKind
from exporter.picture import save_figure
from search.core.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from engines.bench.records import Bench, BenchRow, Spread
    from engines.memory import Memory

MOST_GRAPHS = 12
"""Step graphs that get a line each."""
COLOURS = {
    ContenderKind.EAGER: "#566573",
    ContenderKind.REFERENCE: "#99a3a4",
    ContenderKind.DEEPCACHE: "#7d3c98",
    ContenderKind.COMPILE: "#b7950b",
}
ENGINE_COLOURS = ("#1f6f8b", "#d9822b", "#1e7d4f", "#c0392b")
MACS_COLOUR = "#dfe6ea"


def write_bench(found: Bench, folder: Path) -> None:
    """Write `bench.json`, `bench.png` and `bench.svg` into `folder`."""
    write_atomically(folder / "bench.json", json.dumps(found.to_json(), indent=1) + "\n")
    figure = draw(found)
    for kind in ("png", "svg"):
        save_figure(figure, folder / f"bench.{kind}")


def tables(found: Bench) -> list[Table]:
    """Seconds of every row, and of its calls against their share of the MACs."""
    calls = _calls_table(found)
    return [_rows_table(found), *([] if calls is None else [calls])]


def _rows_table(found: Bench) -> Table:
    shape = found.shape
    table = Table(
        title=f"{found.bundle} ({found.subnet}), {shape.height} x {shape.width}, {shape.images} per run, "
        f"bundle in {found.dtype}, {found.macs_ratio:.2f} x fewer MACs",
        caption="medians and quartiles; speedups are of the loop, round by round",
    )
    table.add_column("")
    table.add_column("precision")
    for heading in (
        "s / run", "quartiles", "loop, s", "x PyTorch", "x own full", "of MACs ratio", "memory",
        *(["error"] if found.errors else []),
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in found.rows:
        mine = row.contender
        cells = _figures(found, row) if row.samples else (row.note, *["-"] * 6)
        table.add_row(mine.name, mine.precision or mine.dtype, *cells)
    return table


def _figures(found: Bench, row: BenchRow) -> tuple[str, ...]:
    eager, full, reached = found.eager, found.full_of(row), found.reached(row)
    return (
        _seconds(row.total.median),
        f"{_seconds(row.total.low)} to {_seconds(row.total.high)}",
        _seconds(row.loop.median),
        "-" if eager is None else _times(row.speedup_over(eager)),
        "-" if full is None or full is row else _times(row.speedup_over(full)),
        "-" if reached is None else f"{reached:.0%}",
        _size(row.memory),
        *([_error(found, row)] if found.errors else []),
    )


def _calls_table(found: Bench) -> Table | None:
    """A line per step graph; None if there are too many to read, or only one."""
    count = Counter(found.graphs)
    subnets = [row for row in found.measured if found.is_subnet(row)]
    if not subnets or not 1 < len(count) <= MOST_GRAPHS:
        return None
    table = Table(
        title="one call of each step graph, against a full call on the same engine",
        caption="ms (share of a full call)",
    )
    for heading in ("graph", "calls", "MACs", *(row.contender.name for row in subnets)):
        table.add_column(heading, justify="right")
    for graph in sorted(count, key=found.graphs.index):
        numbers = [n for n, each in enumerate(found.graphs) if each == graph]
        cells = [_call_cell(found, row, numbers) for row in subnets]
        share = found.macs[numbers[0]]
        table.add_row(str(graph), str(len(numbers)), f"{share:.1%}", *cells)
    return table


def _call_cell(found: Bench, row: BenchRow, numbers: list[int]) -> str:
    taken = statistics.median(row.calls[number] for number in numbers)
    full = found.full_of(row)
    share = "" if full is None else f" ({taken / statistics.median(full.calls):.1%})"
    return f"{1e3 * taken:.1f}{share}"


def draw(found: Bench) -> Figure:
    """Seconds of every row, over what each call takes beside its share of the MACs."""
    from matplotlib.figure import Figure

    rows = found.measured
    subnets = [row for row in rows if found.is_subnet(row) and found.full_of(row) is not None]
    height = 1.1 + 0.38 * len(rows)
    figure = Figure(figsize=(9, height + (3 if subnets else 0)), layout="constrained")
    if not subnets:
        _draw_rows(figure.subplots(), found)
        return figure
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": [height, 3]})
    _draw_rows(above, found)
    _draw_calls(below, found, subnets)
    return figure


def _draw_rows(axes: Axes, found: Bench) -> None:
    rows = found.measured
    colours = _colours(found)
    for place, row in enumerate(rows):
        spread = row.total
        axes.barh(
            place,
            spread.median,
            color=colours[row.contender.name],
            alpha=1 if row.contender.is_full else 0.65,
            xerr=[[spread.median - spread.low], [spread.high - spread.median]],
            error_kw={"elinewidth": 1, "ecolor": "#1d2730", "capsize": 2},
        )
        axes.annotate(
            _label(found, row),
            (spread.high, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    names = [_name(row) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * max(row.total.high for row in rows))
    axes.set_xlabel("seconds per run, from the prompt to the pictures", fontsize=8)
    axes.set_title(f"{found.subnet}: {found.macs_ratio:.2f} x fewer MACs", fontsize=10)
    _plain(axes)


def _draw_calls(axes: Axes, found: Bench, subnets: list[BenchRow]) -> None:
    colours = _colours(found)
    axes.bar(found.steps, found.macs, width=0.9, color=MACS_COLOUR, label="MACs")
    for row in subnets:
        full = found.full_of(row)
        whole = statistics.median(full.calls if full is not None else row.calls)
        axes.plot(
            found.steps,
            [call / whole for call in row.calls],
            "o-",
            markersize=3,
            linewidth=0.9,
            color=colours[row.contender.name],
            label=row.contender.name,
        )
    axes.set_xlabel("step (0 is the noisiest)", fontsize=8)
    axes.set_ylabel("of a full call on\nthe same engine", fontsize=8)
    axes.set_ylim(0)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    _plain(axes)


def _colours(found: Bench) -> dict[str, str]:
    """A colour per row; the rows of an engine share it."""
    engines = list(dict.fromkeys(row.contender.engine for row in found.rows))
    by_engine = {
        name: ENGINE_COLOURS[n % len(ENGINE_COLOURS)]
        for n, name in enumerate(filter(None, engines))
    }
    return {
        row.contender.name: by_engine.get(row.contender.engine) or COLOURS[row.contender.kind]
        for row in found.rows
    }


def _label(found: Bench, row: BenchRow) -> str:
    eager = found.eager
    words = [f"{_seconds(row.total.median)} s"]
    if eager is not None and eager is not row:
        words.append(_times(row.speedup_over(eager)))
    reached = found.reached(row)
    if reached is not None:
        words.append(f"{reached:.0%} of the MACs ratio")
    if row.memory is not None:
        words.append(_size(row.memory))
    if found.error(row) is not None:
        words.append(f"error {_error(found, row)}")
    return ", ".join(words)


def _name(row: BenchRow) -> str:
    """With its precision, if that is not its dtype."""
    mine = row.contender
    return mine.name if mine.precision in ("", mine.dtype) else f"{mine.name}, {mine.precision}"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _seconds(value: float) -> str:
    """Three figures that count."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _times(spread: Spread) -> str:
    return f"{spread.median:.2f} x"


def _error(found: Bench, row: BenchRow) -> str:
    error = found.error(row)
    return "-" if error is None else f"{error:.4f}"


def _size(memory: Memory | None) -> str:
    return "-" if memory is None else f"{memory.total / 1e6:.0f} MB"
