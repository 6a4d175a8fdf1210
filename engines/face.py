"""The public functions of `engines` that no other module needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import DEFAULTS, make_engine
from engines.runner import Runner
from exporter.bundle import Bundle

if TYPE_CHECKING:
    from engines.base import EngineOptions


def load(
    bundle: Path | str,
    engine: str = "onnxruntime",
    *,
    device: str = "cpu",
    options: EngineOptions = DEFAULTS,
    height: int | None = None,
    width: int | None = None,
    images: int | None = None,
) -> Runner:
    """Load a bundle, once; the result's `run` makes pictures, again and again. No torch on the CPU.

    Args:
        bundle: a directory that an export wrote.
        engine: as `stepcarve run --engine`.
        device: `cpu` or `cuda`.
        options: of the engine.
        height: of the pictures in pixels, to choose among the bundle's variants; None takes any.
        width: likewise.
        images: per prompt, likewise.

    Raises:
        ExportError: no bundle, a damaged one, or none of its variants fits.
        EngineError: the engine does not work here, or cannot load the graphs.
    """
    opened = Bundle.open(Path(bundle), height=height, width=width, images=images)
    return Runner(opened, make_engine(engine, device, options))
