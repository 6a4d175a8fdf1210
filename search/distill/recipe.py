"""How to distil. No framework."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.core.precision import denoiser_precisions, precision_named
from search.laptop.settings import SNR_CAP, SNR_FLOOR

PRECISIONS = tuple(each.accelerate for each in denoiser_precisions())
"""What accelerate calls them."""


class Loss(enum.StrEnum):
    """The feature loss; task and output loss are the same in all."""

    NORMALIZED = "normalized"
    """Every feature relative to the squared norm of the teacher's."""
    PLAIN = "plain"
    """Every feature as it is, as BK-SDM does; large features weigh most."""
    OUTPUT = "output"
    """No feature: the output alone."""


@dataclass(frozen=True)
class DistillRecipe:
    """How to distil; one iteration is one step of the optimiser.

    The paper of LAPTOP-Diff publishes none of these; docs/distill.md says why they are what they are.

    Attributes:
        loss: which terms there are.
        features: the outputs of which blocks are compared.
        iterations: of the optimiser.
        minutes: a limit; the iterations that fit in it are counted after a few of them. None is none.
        batch: pictures per process and accumulated part.
        accumulate: how many such parts make one iteration.
        learning_rate: the highest; it rises linearly and then falls along a cosine.
        warmup: iterations that it rises.
        task_weight: of the loss against the true noise.
        output_weight: of the loss against the teacher's prediction.
        feature_weight: of the loss against its features.
        snr_floor: least weight of a squared error of the picture, as clip(SNR, floor, cap) has it.
        snr_cap: largest such weight (Min-SNR, Hang et al. 2023).
        drop: share of pictures whose caption is left out, for the half of guidance without one.
        ema: of the averaged weights, which are the result.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        dtype: of the teacher's weights and activations. The student's weights are float32.
        precision: of the student's arithmetic, one of `PRECISIONS`; None is that of `dtype`.
        seed: of everything that is drawn.
        save_every: iterations between checkpoints.
    """

    loss: Loss = Loss.NORMALIZED
    features: Granularity = Granularity.LAYER
    iterations: int = 2000
    minutes: float | None = None
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-4
    warmup: int = 50
    task_weight: float = 1.0
    output_weight: float = 1.0
    feature_weight: float = 1.0
    snr_floor: float = SNR_FLOOR
    snr_cap: float = SNR_CAP
    drop: float = 0.1
    ema: float = 0.995
    weight_decay: float = 0.01
    clip: float = 1.0
    dtype: str = "float32"
    precision: str | None = None
    seed: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        """Check what cannot be done."""
        for name in ("iterations", "batch", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                msg = f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more"
                raise SearchError(msg)
        for name in ("drop", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"--{name} is {getattr(self, name)}; give a number from 0 to 1"
                raise SearchError(msg)
        for name in ("task_weight", "output_weight", "feature_weight"):
            if not getattr(self, name) >= 0:
                msg = f"--{name.replace('_', '-')} is {getattr(self, name)}; give 0 or more"
                raise SearchError(msg)
        if not self.learning_rate > 0:
            msg = f"--learning-rate is {self.learning_rate}; give a number above 0"
            raise SearchError(msg)
        if self.minutes is not None and not self.minutes > 0:
            msg = f"--minutes is {self.minutes}; give a number above 0"
            raise SearchError(msg)
        if self.seed < 0:
            msg = f"--seed is {self.seed}; give 0 or more"
            raise SearchError(msg)
        if self.dtype not in [each.name for each in denoiser_precisions()]:
            known = ", ".join(each.name for each in denoiser_precisions())
            msg = f"unknown dtype {self.dtype!r}; choose one of {known}"
            raise SearchError(msg)
        if self.precision not in (None, *PRECISIONS):
            msg = f"unknown precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}"
            raise SearchError(msg)

    @property
    def mixed(self) -> str:
        """The precision of the student's arithmetic, as accelerate calls it."""
        return self.precision or precision_named(self.dtype).accelerate
