"""What a worker does, made up; processes that run it load nothing else."""

from __future__ import annotations

import os

from engines.bench.records import Contender, Sample
from engines.memory import Memory


def loads(contender: Contender) -> float:
    """Stands in for the worker's own."""
    return 0.5


def holds(contender: Contender) -> Memory:
    return Memory(os.getpid(), 1)


def takes(contender: Contender) -> Sample:
    return Sample(2.0, 1.0, (1.0,))


def cannot(contender: Contender) -> float:
    msg = f"there is no {contender.name}\nhere"
    raise RuntimeError(msg)


def dies(contender: Contender) -> float:
    os._exit(9)
