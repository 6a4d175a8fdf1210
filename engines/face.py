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
    """Load a bundle once, to make pictures with its `run` any number of times. On the CPU, torch is not needed.

    Args:
        bundle: a bundle's directory.
        engine: one of the engines of `stepcarve run`.
        device: `cpu` or `cuda`.
        options: options of the engine.
        height: the height of the pictures in pixels, to choose a variant of the bundle; None: any.
        width: the width of the pictures in pixels, to choose a variant; None: any.
        images: the number of images per prompt, to choose a variant; None: any.

    Returns:
        A runner, whose buffers are allocated and whose graphs are loaded.

    Raises:
        ExportError: the directory is not a bundle, the bundle is damaged, or no variant fits.
        EngineError: the engine does not work here, or cannot load the graphs.
    """
    opened = Bundle.open(Path(bundle), height=height, width=width, images=images)
    return Runner(opened, make_engine(engine, device, options))
