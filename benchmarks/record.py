"""Where a measurement was made, and how it is written down."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from engines.machine import processor
from search.core.files import write_atomically
from search.core.versions import versions_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "torch", "diffusers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx",
    "numpy",
)  # fmt: skip
"""Whose versions are written, of those that are installed."""


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, Python and the packages that matter."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "python": platform.python_version(),
        **versions_of(PACKAGES),
    }


def origin() -> dict[str, Any]:
    """The command line and the machine of this process."""
    module = Path(sys.argv[0]).stem
    command = " ".join(["python -m", f"benchmarks.{module}", *map(portable, sys.argv[1:])])
    return {"command": command, "machine": machine()}


def write(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` with the command line and the machine."""
    return write_as_it_is(name, {**origin(), **result})


def write_as_it_is(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` of several commands, whose entries have an `origin` each."""
    path = RESULTS / f"{name}.json"
    write_atomically(path, json.dumps(portable(result), indent=1) + "\n")
    return path


def portable(value: Any) -> Any:
    """The same with no folder of this machine in it: paths are the project's own, or bare names."""
    if isinstance(value, dict):
        return {key: portable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [portable(each) for each in value]
    if isinstance(value, str) and "=/" in value:
        name, _, file = value.partition("=")
        return f"{name}={portable(file)}"
    if not isinstance(value, str | Path) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
