"""The run as one self-contained page, made from what the stages have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engines.optimize.chart import draw_measured
from exporter.picture import draw_grid
from search.core.subnet import SubNet
from search.core.summary import call_times, one_line, summarise
from search.core.template import png_address, render, svg_of

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from engines.optimize.folder import OptimizeFolder

FULL, OURS = "#99a3a4", "#1f6f8b"
NAMES = {"full": "full sampler", "ours": "this bundle's SubNet", "fewer": "fewer steps, equal cost"}


def page_of(folder: OptimizeFolder, result: dict[str, Any]) -> str:
    """The page; links on it lead to the reports of the stages, which lie beside it."""
    subnet = SubNet.load(folder.subnet)
    summary = summarise(subnet)
    return render(
        __package__,
        "page.html",
        pipeline=folder.read(folder.path / "settings.json")["pipeline"].rpartition("/")[2],
        result=result,
        state="holds" if result["passed"] else "fails",
        figures=_figures(result),
        pictures=_pictures(folder),
        plot=_address(folder.quality / "plot.png"),
        qualities=_qualities(result),
        measured=[_measured(row, result["taken"]) for row in result["measured"]],
        chart=svg_of(draw_measured(result["measured"], result["taken"])) if result["taken"] else "",
        times_called=svg_of(_draw_times(folder, summary)),
        grid=svg_of(draw_grid(subnet)),
        summary=one_line(summary),
        calls=call_times(summary) if summary["fitted"] else "",
        parity=_parity(folder),
        links=_links(folder),
        times={name: _time(spent) for name, spent in result["times"].items()},
        settings=_settings(folder),
    )


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The large numbers at the top, and what they are."""
    taken = result["taken"]
    if taken is None:
        return []
    found = [
        (
            f"{taken['speedup']:.2f} x",
            f"faster than the full sampler on {taken['engine']} in {taken['precision']}, measured",
        ),
        (
            f"{result['macs_ratio']:.2f} x",
            f"fewer MACs, {result['calls']} of {result['full_calls']} calls",
        ),
        (f"{taken['psnr']:.1f} dB", "PSNR to the full sampler's pictures"),
        (
            f"{taken['seconds']:.3g} s",
            f"per run; the full sampler takes {taken['full_seconds']:.3g} s",
        ),
    ]
    if taken["speedup_over_pytorch"] is not None:
        words = f"faster than diffusers in PyTorch, which takes {taken['pytorch_seconds']:.3g} s"
        found.insert(1, (f"{taken['speedup_over_pytorch']:.2f} x", words))
    return found


def _pictures(folder: OptimizeFolder) -> dict[str, Any]:
    """A column per prompt, a row per way from its noise to a picture, with the PSNR to the first."""
    record = folder.read(folder.quality / "pictures.json")
    prompts, psnr = record["prompts"], record["psnr"]
    rows = []
    few_bits = {key: f"the same in {key}" for key in psnr if key not in NAMES}
    for key, name in {**NAMES, **few_bits}.items():
        shown = [
            {
                "prompt": prompt,
                "source": _address(folder.quality / f"{key}-{number}.png"),
                "likeness": f"{psnr[key][number]:.1f} dB" if key in psnr else "",
            }
            for number, prompt in enumerate(prompts)
        ]
        rows.append({"name": name, "shown": shown})
    return {"prompts": prompts, "rows": rows}


def _qualities(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the table below the plot."""
    points = {"this SubNet": result["quality"], "fewer steps, equal cost": result["fewer_steps"]}
    return [
        (
            name,
            f"{point['cost']:.1%}",
            str(point["calls"]),
            f"{point['error']:.4f}",
            f"{point['psnr']:.1f} dB",
            f"{point['ssim']:.4f}",
        )
        for name, point in points.items()
    ]


def _measured(row: dict[str, Any], taken: dict[str, Any] | None) -> dict[str, Any]:
    eager, over = row["pytorch_seconds"], row["speedup_over_pytorch"]
    return {
        "is_taken": row == taken,
        "cells": (
            f"{row['engine']} on {row['device']}",
            row["precision"],
            f"{row['seconds']:.3g} s",
            f"{row['full_seconds']:.3g} s",
            f"{row['speedup']:.2f} x",
            "-" if eager is None else f"{eager:.3g} s",
            "-" if over is None else f"{over:.2f} x",
            "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f} MB",
            f"{row['error']:.4f}",
        ),
    }


def _draw_times(folder: OptimizeFolder, summary: dict[str, Any]) -> Figure:
    """When the full sampler calls the denoiser, and when the SubNet does."""
    from matplotlib.figure import Figure

    full = folder.read(folder.quality / "pictures.json")["full_timesteps"]
    figure = Figure(figsize=(9, 1.3), layout="constrained")
    axes = figure.subplots()
    for height, (times, colour) in enumerate(((summary["call_timesteps"], OURS), (full, FULL))):
        axes.plot(times, [height] * len(times), "|", color=colour, markersize=14, markeredgewidth=2)
    axes.set_yticks(
        (0, 1), (f"this SubNet: {summary['calls']}", f"full sampler: {len(full)}"), fontsize=8
    )
    axes.set_ylim(-0.6, 1.6)
    axes.invert_xaxis()
    axes.set_xlabel("timestep of each call of the denoiser", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _parity(folder: OptimizeFolder) -> list[dict[str, Any]]:
    """A row per rung of every precision."""
    rows = []
    for dtype in folder.read(folder.engines)["engines"]:
        file = folder.parity(dtype) / "parity.json"
        for rung in folder.read(file)["rungs"] if file.is_file() else []:
            latents = rung["finals"].get("latents")
            rows.append(
                {
                    "name": rung["name"],
                    "dtype": dtype,
                    "against": rung["against"],
                    "state": "holds" if rung["passed"] else "fails",
                    "error": "-" if latents is None else f"{_number(latents['relative']):.1e}",
                    "floor": "-" if latents is None else f"{_number(latents['floor']):.1e}",
                    "why": rung["failures"][:3],
                }
            )
    return rows


def _links(folder: OptimizeFolder) -> dict[str, str]:
    """The reports of the stages, relative to the page."""
    found = {
        "all points of the comparison": folder.quality / "frontier" / "frontier.html",
        **{f"parity, {p.parent.name}": p for p in sorted(folder.path.glob("parity/*/report.html"))},
        **{f"seconds, {p.parent.name}": p for p in sorted(folder.path.glob("bench/*/bench.png"))},
        "this page as data": folder.result,
    }
    return {name: path.relative_to(folder.path).as_posix() for name, path in found.items()}


def _settings(folder: OptimizeFolder) -> dict[str, str]:
    """What was asked for, but for what nobody gave."""
    record = folder.read(folder.path / "settings.json")
    hidden = ("schema", "kind", "prompts")
    return {
        name.replace("_", " "): str(value)
        for name, value in record.items()
        if name not in hidden and value not in (None, [], False, "")
    }


def _time(spent: dict[str, float]) -> str:
    return f"{spent['seconds']:.0f} s ({spent['processor_seconds']:.0f} s of processor time)"


def _number(value: float | str) -> float:
    """JSON has numbers that are not finite as texts."""
    return float(value)


def _address(file: Path) -> str:
    return png_address(file.read_bytes())
