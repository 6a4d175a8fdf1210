"""Temporary files named after their process, so that a later process can remove those of a killed one."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path


def process_name(prefix: str) -> str:
    """A name with this machine and this process; a dot and more may follow."""
    return f"{prefix}{platform.node()}-{os.getpid()}"


def remove_stale(folder: Path, prefix: str) -> None:
    """Remove from `folder` what ended processes of this machine left there under a `process_name`."""
    for path in folder.glob(f"{prefix}{platform.node()}-*"):
        process = path.name.rpartition("-")[2].partition(".")[0]
        if not process.isdecimal() or _is_running(int(process)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
