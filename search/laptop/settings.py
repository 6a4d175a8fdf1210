"""The settings of the search for layers. No framework."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from search.core.errors import SearchError
from search.runs.parallel import Where, require_workers

SNR_FLOOR, SNR_CAP = 0.1, 5.0
"""Squared errors of the picture weigh clip(SNR, floor, cap): Min-SNR (Hang et al. 2023), with a floor."""


class Criterion(enum.StrEnum):
    """The importance criterion of a layer."""

    OUTPUT = "output"
    """How far the predictions move without it (LAPTOP-Diff)."""
    PICTURE = "picture"
    """The same as errors of the picture that the predictions point to, weighed as in distillation: what
    little moves at the noisiest steps decides where things are."""
    MAGNITUDE = "magnitude"
    """The norm of its weights."""
    TAYLOR = "taylor"
    """First-order estimate of the change of the task loss: the sum of |weight x gradient|."""
    TASK = "task"
    """How far the loss the denoiser was trained on rises without it."""
    LD_PRUNER = "ld-pruner"
    """How far mean and spread of the final latents move without it."""

    @property
    def objective(self) -> Criterion:
        """The loss by which sets of layers are chosen and compared: this one if it is of predictions, else `OUTPUT`."""
        return self if self is Criterion.PICTURE else Criterion.OUTPUT

    @property
    def rounds(self) -> int:
        """How often a choice is compared with its neighbours by default: only our criterion does that."""
        return 2 if self is Criterion.PICTURE else 0

    @property
    def is_noised(self) -> bool:
        """Whether it uses the scheduler's forward (noising) process."""
        return self in (Criterion.PICTURE, Criterion.TAYLOR, Criterion.TASK)


@dataclass(frozen=True)
class LaptopSettings:
    """What decides a search, and how it is run.

    Attributes:
        criterion: what the scores are.
        tuples: inputs of the denoiser to measure on, K.
        rounds: how often the choice is compared with its neighbours by their true loss; only for
            `picture` and `output`.
        seed: of the tuples and of random subsets.
        workers: jobs at once.
        where: they run.
    """

    criterion: Criterion = Criterion.OUTPUT
    tuples: int = 64
    rounds: int = 0
    seed: int = 0
    workers: int = 1
    where: Where = Where.LOCAL

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_workers(self.workers)
        if self.tuples < 1:
            msg = f"--tuples is {self.tuples}; give 1 or more"
            raise SearchError(msg)
