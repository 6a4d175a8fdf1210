"""One self-contained HTML page about parity, for people."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING

import numpy as np

from engines.report.template import PAGE
from exporter.picture import draw_grid
from exporter.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from engines.parity.measure import Difference
    from engines.parity.record import Parity, Pictures, Rung
    from exporter.bundle import Bundle

GAIN = 32
"""By which the difference of two pictures is multiplied to be seen."""
SHOWN = 20
"""Failures that are listed; the JSON has them all."""
LOWEST = 1e-9
"""What equal tensors are drawn as, on a logarithmic axis."""
COLOURS = ("#1f6f8b", "#d9822b", "#6b4fa0", "#3a8f5c")


def page_of(
    bundle: Bundle, parity: Parity, pictures: Pictures, *, verdict: str, environment: dict[str, str]
) -> str:
    """The page; everything it shows is inside."""
    return PAGE.format(
        verdict=html.escape(verdict),
        state="holds" if parity.passed else "fails",
        bundle=html.escape(bundle.path.name),
        failures=_failures(parity),
        rungs=_rungs(parity),
        notes=_list((*parity.notes, *_notes(parity))),
        errors="".join(
            _svg(_draw_errors(rung), f"Error per step of {rung.name}") for rung in parity.engines
        ),
        k=f"{parity.k:g}",
        worst=_worst(parity),
        prompt=html.escape(parity.prompt),
        pictures=_pictures(pictures, quality_of(parity)),
        grid=_svg(draw_grid(bundle.subnet), "Which block is computed at which step"),
        facts=_rows(_facts(bundle, parity)),
        environment=_rows(environment),
    )


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
        "seed": str(parity.seed),
        "quality: SubNet against full sampler": f"{quality_of(parity)} (no part of parity)",
    }


def _failures(parity: Parity) -> str:
    if parity.passed:
        return ""
    more = len(parity.failures) - SHOWN
    rest = f"<p>and {more} more, see parity.json</p>" if more > 0 else ""
    blocks = _list(parity.blocks)
    found = f"<h2>First block that is off</h2>{blocks}" if blocks else ""
    return f"<h2>What is wrong</h2>{_list(parity.failures[:SHOWN])}{rest}{found}"


def _rungs(parity: Parity) -> str:
    """A row per rung."""
    state = "fails" if parity.program else "holds"
    program = (
        f'<tr class="{state}"><th scope="row">program</th><td>the SubNet</td>'
        '<td colspan="6">calls, caches and coefficients</td>'
        f'<td><span class="badge">{state}</span></td></tr>'
    )
    return program + "".join(_rung(rung) for rung in parity.rungs)


def _rung(rung: Rung) -> str:
    state = "holds" if rung.passed else "fails"
    free = [call.free for call in rung.calls if call.free is not None]
    cells = [
        _share(rung.worst),
        _share(max(free, key=lambda each: each.excess, default=None)),
        _share(rung.finals.get("latents")),
        _share(rung.finals.get("decoder")),
        likeness(rung.psnr),
        "same" if rung.repeats else "differs",
    ]
    return (
        f'<tr class="{state}"><th scope="row">{html.escape(rung.name)}</th>'
        f"<td>{html.escape(rung.against)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}"
        f'<td><span class="badge">{state}</span></td></tr>'
    )


def quality_of(parity: Parity) -> str:
    """What the SubNet itself does to the picture."""
    return "identical" if parity.quality == math.inf else f"PSNR {parity.quality:.1f} dB"


def likeness(psnr: float) -> str:
    """A PSNR of two pictures in words."""
    if math.isnan(psnr):
        return "none"
    return "identical" if psnr == math.inf else f"{psnr:.1f} dB"


def _share(difference: Difference | None) -> str:
    """An error, and in small print how many floors it is."""
    if difference is None:
        return "–"
    if difference.relative == 0:
        return "equal"
    if math.isnan(difference.relative):
        return "not finite"
    floors = difference.relative / difference.floor if difference.floor else math.inf
    return f"{difference.relative:.1e} <small>{floors:,.{0 if floors >= 10 else 1}f} floors</small>"


def _notes(parity: Parity) -> list[str]:
    return [f"{rung.name}: {note}" for rung in parity.rungs for note in rung.notes]


def _worst(parity: Parity) -> str:
    """The calls that are off most, per engine."""
    rows = []
    for rung in parity.engines:
        ranked = sorted(rung.calls, key=lambda call: -call.worst[1].excess)[:5]
        for call in ranked:
            name, worst = call.worst
            rows.append(
                f'<tr class="{"holds" if worst.passed else "fails"}"><th scope="row">{html.escape(rung.name)}</th>'
                f"<td>{call.call}</td><td>{call.step}</td><td>{html.escape(call.graph)}</td>"
                f"<td>{html.escape(name)}</td><td>{_share(worst)}</td><td>{worst.floor:.1e}</td>"
                f"<td>{worst.largest:.1e}</td><td>{worst.psnr:.0f} dB</td><td>{worst.cosine:.9f}</td></tr>"
            )
    return "".join(rows)


def _pictures(pictures: Pictures, quality: str) -> str:
    shown = {
        "diffusers, every block at every step": pictures.full,
        f"this SubNet in PyTorch: {quality}": pictures.reference,
    }
    for name, made in pictures.engines.items():
        off = np.abs(made.astype(np.int16) - pictures.reference) * GAIN
        words = f"difference from PyTorch x {GAIN}" if off.any() else "no difference from PyTorch"
        shown[f"this SubNet: {name}"] = made
        shown[f"{words}: {name}"] = off.clip(0, 255).astype(np.uint8)
    return "".join(
        f'<figure><img alt="{html.escape(name)}" src="{_png(pixels)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, pixels in shown.items()
    )


def _draw_errors(rung: Rung) -> Figure:
    """Two panels: on given inputs and on its own way, each with its floor and what is allowed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    steps = [call.step for call in rung.calls]
    _draw(left, steps, [call.worst[1] for call in rung.calls], COLOURS[0])
    left.set_title("each call on PyTorch's inputs", fontsize=10, loc="left")
    free = [(call.step, call.free) for call in rung.calls if call.free is not None]
    _draw(right, [step for step, _ in free], [each for _, each in free], COLOURS[1])
    right.set_title("on its own way: the denoiser's input", fontsize=10, loc="left")
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


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    body = text[text.index("<svg") :].replace("<svg", '<svg role="img"', 1)
    return f'<div class="drawing" title="{html.escape(title)}">{body}</div>'


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(values: dict[str, str]) -> str:
    return "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
        for name, value in values.items()
    )


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""
