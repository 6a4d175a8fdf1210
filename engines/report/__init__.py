"""Parity as files: JSON, JUnit XML and one self-contained HTML page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engines.machine import processor
from engines.report.junit import junit_of
from engines.report.page import likeness, page_of, quality_of
from search.core.files import write_atomically
from search.core.versions import environment

if TYPE_CHECKING:
    from pathlib import Path

    from engines.parity.record import Parity, ParityPictures
    from exporter.bundle import Bundle

PACKAGES = (
    "stepcarve",
    "torch",
    "diffusers",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "polygraphy",
    "numpy",
)


def write_report(folder: Path, bundle: Bundle, parity: Parity, pictures: ParityPictures) -> Path:
    """Write `parity.json`, `junit.xml` and `report.html` into `folder`; returns the page's path."""
    here = _environment()
    record = {**parity.to_json(), "bundle": bundle.path.name, "environment": here}
    write_atomically(folder / "parity.json", json.dumps(record, indent=1) + "\n")
    write_junit(folder / "junit.xml", bundle, parity)
    page = folder / "report.html"
    text = page_of(bundle, parity, pictures, verdict=verdict(parity), environment=here)
    write_atomically(page, text)
    return page


def write_junit(file: Path, bundle: Bundle, parity: Parity) -> None:
    """Write the JUnit XML alone."""
    write_atomically(file, junit_of(bundle.path.name, parity))


def verdict(parity: Parity) -> str:
    """One line: whether parity holds, and by how much."""
    worst = max(parity.engines, key=lambda rung: rung.excess)
    final = worst.finals["latents"]
    off = worst.worst
    word = "holds" if parity.passed else "FAILS"
    call = "none" if off is None else f"{off.relative:.1e} (allowed {off.allowed:.1e})"
    return (
        f"Parity {word}: {worst.name}, {len(worst.calls)} calls, worst call {call}, final latents "
        f"{final.relative:.1e} (allowed {final.allowed:.1e}), picture against the SubNet's in PyTorch "
        f"{likeness(worst.psnr)}; the limit is {parity.k:g} x the rounding error. Quality, not part of parity: "
        f"the SubNet's picture against the full sampler's {quality_of(parity)}"
    )


def _environment() -> dict[str, str]:
    return {"processor": processor(), **environment(PACKAGES)}
