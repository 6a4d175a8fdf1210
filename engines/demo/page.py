"""The demo as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.report import verdict
from search.core.template import png_address, render

if TYPE_CHECKING:
    from engines.demo.record import Demo


def page_of(demo: Demo, sheet: bytes, report: str, environment: dict[str, str]) -> str:
    """The page.

    Args:
        demo: what was found.
        sheet: a PNG with the pictures of all rows.
        report: where the report of parity lies, from the page.
        environment: machine and versions.
    """
    return render(
        __package__,
        "page.html",
        title=demo.title,
        state="holds" if demo.parity.passed else "fails",
        summary=summary_of(demo),
        figures=_figures(demo),
        sheet=png_address(sheet),
        head=demo.headings,
        rows=[
            {"cells": demo.cells(row), "is_proved": number == demo.proved}
            for number, row in enumerate(demo.rows)
        ],
        verdict=verdict(demo.parity),
        report=report,
        environment=environment,
    )


def summary_of(demo: Demo) -> str:
    """What to tell others, in two sentences."""
    full, ours = demo.rows[0], demo.rows[demo.proved]
    others = [row for row in demo.rows[1 : demo.proved] if row.psnr is not None]
    best = max(others, key=lambda row: row.psnr or 0.0)
    parity = "holds" if demo.parity.passed else "FAILS"
    return (
        f"{ours.name} is {full.seconds / ours.seconds:.1f} x faster than the full sampler, and its "
        f"pictures are at {ours.psnr:.1f} dB PSNR from the full sampler's; the best of the others, "
        f"{best.name}, is at {best.psnr:.1f} dB for {best.macs / ours.macs:.2f} times the MACs. "
        f"Parity with PyTorch {parity}."
    )


def _figures(demo: Demo) -> list[tuple[str, str]]:
    """The large numbers at the top, and what they are."""
    full, ours = demo.rows[0], demo.rows[demo.proved]
    return [
        (f"{full.seconds / ours.seconds:.1f} x", "faster than the full sampler, measured"),
        (f"{full.macs / ours.macs:.1f} x", f"fewer MACs, {ours.calls} of {full.calls} calls"),
        (f"{ours.psnr:.1f} dB", "PSNR to the full sampler's pictures"),
        (f"{ours.seconds:.2g} s", f"per picture; the full sampler takes {full.seconds:.2g} s"),
    ]
