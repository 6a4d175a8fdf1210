"""The forms in which the SubNet is exported and measured: the types of `--dtype`, and few bits where they are close enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.quantisation import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

    from engines.optimize.folder import OptimizeFolder
    from engines.optimize.settings import Goal, OptimizeSettings

TOLERATED = 1.3
"""Where the goal is a cost: so many times the SubNet's own error may the quantised one's be."""
ALWAYS_TOLERATED = 0.02
"""An error that is small enough however small the SubNet's own."""


@dataclass(frozen=True)
class Form:
    """One of them.

    Attributes:
        name: of its folders: the dtype, or the scheme.
        dtype: of what is not quantised.
        subnet: its file.
        plan: of its quantisation; None: in floating point.
    """

    name: str
    dtype: str
    subnet: Path
    plan: Path | None = None


def forms_of(folder: OptimizeFolder, settings: OptimizeSettings) -> tuple[Form, ...]:
    """Those that are measured, once the stage `compare` is done."""
    quantised = [
        Form(
            name=scheme,
            dtype=settings.dtypes[0],
            subnet=folder.quantised(scheme) / "subnet.json",
            plan=folder.quantised(scheme) / f"subnet{SUFFIX}",
        )
        for scheme, why in refusals(folder, settings.goal).items()
        if not why
    ]
    return (*(Form(dtype, dtype, folder.subnet) for dtype in settings.dtypes), *quantised)


def refusals(folder: OptimizeFolder, goal: Goal) -> dict[str, str]:
    """Scheme that was tried -> why it is not measured; empty if it is."""
    refused: dict[str, str] = folder.read(folder.tried)["refused"]
    points = folder.read(folder.quality / "pictures.json")["points"]
    return {
        scheme: why or too_far(points[scheme], points["ours"], goal)
        for scheme, why in refused.items()
    }


def too_far(quantised: dict[str, Any], own: dict[str, Any], goal: Goal) -> str:
    """Why a quantised SubNet is not close enough, by its figures and its own in floating point; empty if it is."""
    error, psnr = quantised["error"], quantised["psnr"]
    if goal.is_quality:
        met = goal.is_met(error=error, psnr=psnr)
        return "" if met else f"its error is {error:.4f}, its PSNR {psnr:.1f} dB; wanted: {goal}"
    most = max(TOLERATED * own["error"], ALWAYS_TOLERATED)
    if error <= most:
        return ""
    return (
        f"its error is {error:.4f}, that in floating point {own['error']:.4f}; at most {most:.4f} is "
        "accepted; stepcarve quantise --float-share leaves more layers in floating point"
    )
