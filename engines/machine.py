"""The machine that a measurement was made on, in words."""

from __future__ import annotations

import platform
from functools import cache

import cpuinfo
import psutil


@cache
def processor() -> str:
    """The processor's name, or else its architecture."""
    return str(cpuinfo.get_cpu_info().get("brand_raw") or platform.machine())


def cores() -> int:
    """Those that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def describe(device: str) -> str:
    """The processor, the cores this process may use, and the GPU if `device` is cuda."""
    host = f"{processor()}, {cores()} cores"
    if device.split(":")[0] != "cuda":
        return host
    from engines.cuda import find_device

    return f"{find_device().name}, {host}"
