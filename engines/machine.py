"""What a measurement was made on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor's name, or else its architecture."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe(device: str) -> str:
    """The processor, the cores this process may use, and the GPU if `device` is cuda."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    host = f"{processor()}, {cores} cores"
    if device.split(":")[0] != "cuda":
        return host
    import torch

    return f"{torch.cuda.get_device_name(device)}, {host}"
