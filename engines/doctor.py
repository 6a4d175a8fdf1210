"""What is installed, which engines work, and how to install the others."""

from __future__ import annotations

from dataclasses import dataclass

from engines import kinds
from engines.base import make_engine
from engines.errors import EngineError
from search.core.versions import version_of


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        name: of a package or an engine on a device.
        works: whether it can be used here.
        detail: its version, or what to do.
    """

    name: str
    works: bool
    detail: str


PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")

CLUSTERS = ("ray", "distributed")
"""Packages of `--parallel ray` and `--parallel dask`."""


def examine() -> list[Finding]:
    """Look at every package the export needs and every engine on every device."""
    found = [_package(name, "search and export") for name in PACKAGES]
    found += [_package(name, "run jobs on a cluster") for name in CLUSTERS]
    for kind in kinds.ENGINES:
        found += [_engine(kind, device) for device in kind.classes]
    return found


def _package(name: str, needed: str) -> Finding:
    version = version_of(name)
    if version:
        return Finding(name, True, version)
    return Finding(name, False, f"not installed; pip install {name} (needed to {needed})")


def _engine(kind: kinds.EngineKind, device: str) -> Finding:
    label = f"{kind.name} on {device}"
    try:
        make_engine(kind.name, device)
    except (EngineError, ImportError) as error:
        return Finding(label, False, str(error))
    return Finding(label, True, kind.notes.get(device, "works"))
