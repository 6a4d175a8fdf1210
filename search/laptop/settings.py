"""The settings of the search for layers. No framework."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.runs.parallel import Where, require_workers

if TYPE_CHECKING:
    from search.methods.options import Options


class Criterion(enum.StrEnum):
    """What says how much a layer matters."""

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
    def is_noised(self) -> bool:
        """Whether it goes by how the scheduler puts noise on latents."""
        return self in (Criterion.PICTURE, Criterion.TAYLOR, Criterion.TASK)


CRITERIA = {"default": Criterion.PICTURE, "paper": Criterion.OUTPUT}
"""Per recipe, the criterion if none is asked for."""
ROUNDS = {"default": 2, "paper": 0}
"""Per recipe, how often a choice is compared with its neighbours; 0 leaves it at one knapsack."""


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

    criterion: Criterion = CRITERIA["default"]
    tuples: int = 64
    rounds: int = ROUNDS["default"]
    seed: int = 0
    workers: int = 1
    where: Where = Where.LOCAL

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_workers(self.workers)
        if self.tuples < 1:
            msg = f"--tuples is {self.tuples}; give 1 or more"
            raise SearchError(msg)


def settings_of(options: Options) -> LaptopSettings:
    """Those among the options of all methods."""
    asked = options.criterion
    criterion = CRITERIA[options.recipe] if asked is None else criterion_of(asked)
    return LaptopSettings(
        criterion=criterion,
        tuples=options.tuples,
        rounds=ROUNDS[options.recipe] if criterion is criterion.objective else 0,
        seed=options.seed,
        workers=options.jobs,
        where=options.parallel,
    )


def criterion_of(name: str) -> Criterion:
    """The criterion of that name."""
    if name not in set(Criterion):
        msg = f"unknown criterion {name!r}; choose one of {', '.join(Criterion)}"
        raise SearchError(msg)
    return Criterion(name)
