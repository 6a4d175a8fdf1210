"""Parity as one self-contained HTML page."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.picture import draw_grid
from search.core.summary import summarise
from search.core.template import png_address, render, svg_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from engines.parity.measure import Difference
    from engines.parity.record import CallParity, Parity, ParityPictures, Rung
    from exporter.bundle import Bundle

GAIN = 32
"""Amplification of the difference of two pictures."""
SHOWN = 20
"""Failures that are listed; the JSON has them all."""
WORST = 5
"""Calls per engine that are listed."""
LOWEST = 1e-9
"""Least difference drawn on the logarithmic axis."""
COLOURS = ("#1f6f8b", "#d9822b", "#6b4fa0", "#3a8f5c")


def page_of(
    bundle: Bundle,
    parity: Parity,
    pictures: ParityPictures,
    *,
    verdict: str,
    environment: dict[str, str],
) -> str:
    """The page, self-contained."""
    return render(
        __package__,
        "page.html",
        verdict=verdict,
        state=_state(passed=parity.passed),
        bundle=bundle.path.name,
        failures=parity.failures,
        shown=SHOWN,
        blocks=parity.blocks,
        rungs=[_row(rung) for rung in parity.rungs],
        notes=[*parity.notes, *(f"{rung.name}: {n}" for rung in parity.rungs for n in rung.notes)],
        errors=[
            (f"Error per step of {rung.name}", svg_of(_draw_errors(rung)))
            for rung in parity.engines
        ],
        k=f"{parity.k:g}",
        worst=[each for rung in parity.engines for each in _worst(rung)],
        prompt=parity.prompt,
        pictures=_pictures(pictures, quality_of(parity)),
        grid=svg_of(draw_grid(bundle.subnet)),
        facts=_facts(bundle, parity),
        environment=environment,
    )


def _state(*, passed: bool) -> str:
    return "holds" if passed else "fails"


def _facts(bundle: Bundle, parity: Parity) -> dict[str, str]:
    summary = summarise(bundle.subnet, bundle.latent_shape[0])
    return {
        "SubNet": summary["method"],
        "denoiser": f"{summary['denoiser']}, {len(summary['blocks'])} blocks ({summary['granularity']})",
        "precision": bundle.dtype,
        "shape": str(bundle.shape),
        "sampler": f"{summary['scheduler']}, {summary['steps']} steps",
        "calls": f"{summary['calls']}, {summary['signatures']} distinct graphs",
        "MACs": f"{summary['macs_kept'] / 1e9:.2f} G of {summary['macs_full'] / 1e9:.2f} G "
        f"({summary['keep']:.1%})",
        "cache": f"{summary['cache_bytes'] / 1e6:.2f} MB",
        "negative prompt": parity.negative or "none",
        "guidance": f"{parity.guidance:g}",
        "seed": str(parity.seed),
        "quality: SubNet against full sampler": f"{quality_of(parity)} (not part of parity)",
    }


def _row(rung: Rung) -> dict[str, Any]:
    """A rung as a row of the table."""
    free = [call.free for call in rung.calls if call.free is not None]
    return {
        "name": rung.name,
        "against": rung.against,
        "state": _state(passed=rung.passed),
        "cells": [
            _share(rung.worst),
            _share(max(free, key=lambda each: each.excess, default=None)),
            _share(rung.finals.get("latents")),
            _share(rung.finals.get("decoder")),
        ],
        "picture": likeness(rung.psnr),
        "repeats": "same" if rung.repeats else "differs",
    }


def quality_of(parity: Parity) -> str:
    """What the SubNet itself does to the picture."""
    return "identical" if parity.quality == math.inf else f"PSNR {parity.quality:.1f} dB"


def likeness(psnr: float) -> str:
    """A PSNR of two pictures in words."""
    if math.isnan(psnr):
        return "none"
    return "identical" if psnr == math.inf else f"{psnr:.1f} dB"


def _share(difference: Difference | None) -> dict[str, str]:
    """An error, and how many floors it is."""
    if difference is None:
        return {"error": "–", "floors": ""}
    if difference.relative == 0:
        return {"error": "equal", "floors": ""}
    if math.isnan(difference.relative):
        return {"error": "not finite", "floors": ""}
    floors = difference.relative / difference.floor if difference.floor else math.inf
    return {
        "error": f"{difference.relative:.1e}",
        "floors": f"{floors:,.{0 if floors >= 10 else 1}f}",
    }


def _worst(rung: Rung) -> list[dict[str, Any]]:
    """The calls of an engine with the largest errors."""
    ranked = sorted(rung.calls, key=lambda call: -call.worst[1].excess)[:WORST]
    return [_worst_row(rung, call, *call.worst) for call in ranked]


def _worst_row(rung: Rung, call: CallParity, tensor: str, worst: Difference) -> dict[str, Any]:
    return {
        "engine": rung.name,
        "state": _state(passed=worst.passed),
        "call": call,
        "tensor": tensor,
        "share": _share(worst),
        "figures": [
            f"{worst.floor:.1e}",
            f"{worst.largest:.1e}",
            f"{worst.psnr:.0f} dB",
            f"{worst.cosine:.9f}",
        ],
    }


def _pictures(pictures: ParityPictures, quality: str) -> dict[str, str]:
    """PNGs as addresses, by what is to be read below them."""
    shown = {
        "diffusers, every block at every step": pictures.full,
        f"this SubNet in PyTorch: {quality}": pictures.reference,
    }
    for name, made in pictures.engines.items():
        off = np.abs(made.astype(np.int16) - pictures.reference) * GAIN
        words = f"difference from PyTorch x {GAIN}" if off.any() else "no difference from PyTorch"
        shown[f"this SubNet: {name}"] = made
        shown[f"{words}: {name}"] = off.clip(0, 255).astype(np.uint8)
    return {name: _png(_still(pixels)) for name, pixels in shown.items()}


def _still(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture `[height, width, 3]` as it is; of a video `[frames, height, width, 3]`, its middle frame."""
    return pixels if pixels.ndim == 3 else pixels[len(pixels) // 2]


def _draw_errors(rung: Rung) -> Figure:
    """Two panels: on given inputs and on its own trajectory, each with floor and tolerance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    steps = [call.step for call in rung.calls]
    _draw(left, steps, [call.worst[1] for call in rung.calls], COLOURS[0])
    left.set_title("each call on PyTorch's inputs", fontsize=10, loc="left")
    free = [(call.step, call.free) for call in rung.calls if call.free is not None]
    _draw(right, [step for step, _ in free], [each for _, each in free], COLOURS[1])
    right.set_title("on its own trajectory: the denoiser's input", fontsize=10, loc="left")
    left.set_ylabel("relative L2 error")
    lines, labels = left.get_legend_handles_labels()
    figure.legend(
        lines[1:], labels[1:], frameon=False, ncols=2, fontsize=9, loc="outside upper right"
    )
    figure.suptitle(rung.name, fontsize=11, x=0.01, ha="left", weight="bold")
    return figure


def _draw(axes: Axes, steps: Sequence[int], found: Iterable[Difference], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    found = list(found)
    errors = [each.relative for each in found]
    axes.semilogy(
        steps, [max(e, LOWEST) for e in errors], "o-", markersize=3, color=colour, label="error"
    )
    for label, style, values in (
        ("rounding alone", ":", [each.floor for each in found]),
        ("allowed", "--", [each.allowed for each in found]),
    ):
        axes.semilogy(steps, values, style, linewidth=1, color="#566573", label=label)
    bad = [step for step, each in zip(steps, found, strict=True) if not each.passed]
    for step in bad:
        axes.axvspan(step - 0.5, step + 0.5, color="#b3261e", alpha=0.12, linewidth=0)
    axes.set_xlabel("step (0 is the noisiest)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return png_address(buffer.getvalue())
