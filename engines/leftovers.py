"""Names of what is not there to stay, by which later processes know what one that was killed has left."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path


def mine(prefix: str) -> str:
    """A name with this machine and this process; a dot and more may follow."""
    return f"{prefix}{platform.node()}-{os.getpid()}"


def clean(folder: Path, prefix: str) -> None:
    """Remove what processes of this machine that are gone have left in `folder`, of names by `mine`."""
    for path in folder.glob(f"{prefix}{platform.node()}-*"):
        process = path.name.rpartition("-")[2].partition(".")[0]
        if not process.isdecimal() or _runs(int(process)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
