"""The memory and disk that an export needs, checked before it begins."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from exporter.errors import ExportError
from search.core.precision import precision_named
from search.model.parts import DTYPE

if TYPE_CHECKING:
    from pathlib import Path

    from search.model.pipeline import Pipeline

BASE_MEMORY = 1_500_000_000
"""Bytes for the libraries, the traced graphs and the largest tensor on its way to disk."""
VARIANT_MEMORY = 150_000_000
"""Bytes for the graphs of each further variant; those of shapes-sd take 35 MB, and FLUX has five times its nodes."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class Needs:
    """What an export takes, in bytes.

    Attributes:
        memory: at its peak. The denoiser's weights stream from disk to disk and hardly count; the text
            encoders and the autoencoder are loaded.
        disk: where the bundle will be.
    """

    memory: int
    disk: int


def needs_of(pipeline: Pipeline, dtype: str, variants: int = 1, *, fused: bool = False) -> Needs:
    """Estimate from the number of parameters.

    Args:
        pipeline: opened without the denoiser's weights.
        dtype: of the denoiser in the bundle.
        variants: of the bundle; all their graphs are in memory before any is written.
        fused: whether LoRAs are fused into the weights, which is done in memory.
    """
    own, others = parameters_of(pipeline)
    denoiser, around = own * precision_named(dtype).bytes, others * DTYPE.itemsize
    loaded = own * DTYPE.itemsize if fused else 0
    graphs = VARIANT_MEMORY * (variants - 1)
    return Needs(memory=BASE_MEMORY + graphs + around + loaded, disk=denoiser + around)


def parameters_of(pipeline: Pipeline) -> tuple[int, int]:
    """How many the denoiser and other networks of its class have, and the other models together."""
    modules = [
        module
        for name, module in pipeline.pipe.components.items()
        if name not in pipeline.networks and hasattr(module, "parameters")
    ]
    networks = pipeline.networks.values()
    denoiser = sum(p.numel() for network in networks for p in network.parameters())
    return denoiser, sum(p.numel() for module in modules for p in module.parameters())


def require_room(
    pipeline: Pipeline, out: Path, dtype: str, variants: int = 1, *, fused: bool = False
) -> str:
    """One line that says what the export will need.

    Raises:
        ExportError: there is not that much memory or disk.
    """
    needs = needs_of(pipeline, dtype, variants, fused=fused)
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = {"memory": psutil.virtual_memory().available, "disk": shutil.disk_usage(folder).free}
    for what, needed in vars(needs).items():
        if needed > free[what]:
            where = f" at {str(folder)!r}" if what == "disk" else ""
            msg = (
                f"the export needs about {needed / GIGABYTE:.1f} GB of {what}{where}, but only "
                f"{free[what] / GIGABYTE:.1f} GB is free; free some, or use a smaller --dtype"
            )
            raise ExportError(msg)
    return (
        f"needs about {needs.memory / GIGABYTE:.1f} GB of memory and {needs.disk / GIGABYTE:.1f} GB "
        "of disk"
    )
