"""Parity as files: JSON for machines and one self-contained HTML page for people."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import platform
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from exporter.picture import draw_grid
from exporter.summary import summarise
from search.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from engines.parity import Parity, Pictures
    from exporter.bundle import Bundle

_DIFFERENCE_GAIN = 32

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>stepcarve parity: {verdict}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2730; max-width: 1060px;
        margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.verdict {{ padding: .6rem 1rem; border-radius: .4rem; color: white; background: {colour}; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15rem .9rem .15rem 0; text-align: left; }}
th {{ font-weight: 500; color: #566573; }} td {{ font-variant-numeric: tabular-nums; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 1rem; }} figure {{ margin: 0; }}
.pictures img {{ width: 230px; image-rendering: pixelated; border: 1px solid #ccd; }}
figcaption {{ font-size: .85rem; color: #566573; }} svg {{ max-width: 100%; height: auto; }}
</style>
<h1>Parity of {engine} with PyTorch</h1>
<p class="verdict">{verdict}</p>
{failures}
<h2>What was compared</h2>
<table>{facts}</table>
<h2>Pictures of “{prompt}”</h2>
<div class="pictures">{pictures}</div>
<h2>Which block is computed at which step</h2>
{grid}
<h2>Error per call</h2>
{errors}
<p>“One call” gives the engine the reference's own inputs and caches at every call; “whole run” lets
the engine follow its own trajectory. Both are relative L2 errors.</p>
<h2>Environment</h2>
<table>{environment}</table>
</html>
"""


def write_report(folder: Path, bundle: Bundle, parity: Parity, pictures: Pictures) -> Path:
    """Write `parity.json` and `report.html` into `folder`; returns the page's path."""
    environment = _environment()
    record = {**parity.to_json(), "bundle": bundle.path.name, "environment": environment}
    write_atomically(folder / "parity.json", json.dumps(record, indent=1) + "\n")
    page = folder / "report.html"
    write_atomically(page, _page(bundle, parity, pictures, environment))
    return page


def verdict(parity: Parity) -> str:
    """One line: whether parity holds, and by how much."""
    word = "holds" if parity.passed else "FAILS"
    return (
        f"Parity {word}: {len(parity.calls)} calls, worst call {parity.worst:.1e} (allowed "
        f"{parity.tolerance.call:.0e}), final latents {parity.latents:.1e} (allowed {parity.tolerance.final:.0e}), "
        f"picture {_likeness(parity.psnr)}"
    )


def _likeness(psnr: float) -> str:
    return "identical" if psnr == math.inf else f"{psnr:.1f} dB"


def _page(bundle: Bundle, parity: Parity, pictures: Pictures, environment: dict[str, str]) -> str:
    subnet = bundle.subnet
    summary = summarise(subnet, bundle.latent_shape[0])
    facts = {
        "bundle": bundle.path.name,
        "engine": f"{parity.engine} on {parity.device}",
        "SubNet": summary["method"],
        "denoiser": f"{summary['denoiser']}, {len(summary['blocks'])} blocks ({summary['granularity']})",
        "sampler": f"{summary['scheduler']}, {summary['steps']} steps",
        "calls": f"{summary['calls']}, {summary['signatures']} distinct graphs",
        "MACs": f"{summary['macs_kept'] / 1e9:.2f} G of {summary['macs_full'] / 1e9:.2f} G "
        f"({summary['keep']:.1%})",
        "cache": f"{summary['cache_bytes'] / 1e6:.2f} MB",
        "final latents": f"relative L2 error {parity.latents:.2e}",
        "decoder": f"relative L2 error {parity.decoder:.2e}",
        "picture (PSNR)": _likeness(parity.psnr),
    }
    difference = np.abs(pictures.engine.astype(np.int16) - pictures.reference) * _DIFFERENCE_GAIN
    shown = {
        "diffusers, every block at every step": pictures.full,
        "this SubNet in PyTorch": pictures.reference,
        f"this SubNet in {parity.engine}": pictures.engine,
        f"difference of the last two x {_DIFFERENCE_GAIN}": difference.clip(0, 255).astype(
            np.uint8
        ),
    }
    return _PAGE.format(
        verdict=html.escape(verdict(parity)),
        colour="#1e7d4f" if parity.passed else "#b3261e",
        engine=html.escape(parity.engine),
        failures=_list(parity.failures),
        facts=_rows(facts),
        prompt=html.escape(parity.prompt),
        pictures="".join(
            f'<figure><img alt="{html.escape(name)}" src="{_png(pixels)}">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
            for name, pixels in shown.items()
        ),
        grid=_svg(draw_grid(subnet)),
        errors=_svg(_draw_errors(parity)),
        environment=_rows(environment),
    )


def _draw_errors(parity: Parity) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    steps = [call.step for call in parity.calls]
    floor = 1e-9
    forced = [max(call.worst[1], floor) for call in parity.calls]
    free = [max(call.free, floor) for call in parity.calls]
    axes.semilogy(steps, forced, "o-", markersize=3, label="one call", color="#1f6f8b")
    axes.semilogy(steps, free, "o-", markersize=3, label="whole run", color="#d9822b")
    axes.axhline(parity.tolerance.call, color="#1f6f8b", linewidth=0.8, linestyle="--")
    axes.axhline(parity.tolerance.final, color="#d9822b", linewidth=0.8, linestyle="--")
    axes.set_xlabel("step (0 is the noisiest)")
    axes.set_ylabel("relative L2 error")
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(values: dict[str, str]) -> str:
    return "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in values.items()
    )


def _list(sentences: tuple[str, ...]) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _environment() -> dict[str, str]:
    packages = (
        "stepcarve",
        "torch",
        "diffusers",
        "onnx",
        "onnxruntime-gpu",
        "onnxruntime",
        "numpy",
    )
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
