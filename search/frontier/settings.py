"""The settings of a comparison. No framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.frontier.registry import SERIES

if TYPE_CHECKING:
    from pathlib import Path

    from search.frontier.series import Series


@dataclass(frozen=True)
class FrontierSettings:
    """The settings of `stepcarve frontier`.

    Attributes:
        steps: inference steps of the full sampler; None for the pipeline's own default.
        scheduler: a diffusers scheduler class or a short name; None is the pipeline's own.
        scheduler_options: settings of it to change, by name.
        guidance: classifier-free guidance scale, 1 or less is no guidance; None is the pipeline's own.
        keeps: fractions of the full sampler's cost.
        methods: to compare.
        prompts: to search and calibrate with; none stands for half of the pipeline's own.
        held_out: prompts to evaluate with; none stands for the other half.
        count: held-out pictures.
        reference_steps: inference steps of the sampler that rows are fitted to; None is the full one.
        fine_steps: inference steps of the fine reference, or None for ten times as many as the full
            sampler's, at most its timesteps.
        pictures: to calibrate with, the same for all, or None for carve's default.
        iterations: of the refinement of coefficients, or None for carve's default.
        dip_go_iterations: of the paper's search, which publishes 1000; with fewer, its learning rate
            rises to make up for them.
        random: tables or sets of steps that random search and annealing try per keep; the default is
            more than carve tries sets of calls.
        seed: of noise and random choices.
        judge: an ONNX classifier that reads attributes off pictures, or None.
        features: a `.npy` file with what the judge makes of real pictures, `[M, F]`, or None.
        precisions: schemes that every SubNet is quantised in too.
    """

    steps: int | None = None
    scheduler: str | None = None
    scheduler_options: tuple[tuple[str, Any], ...] = ()
    guidance: float | None = None
    keeps: tuple[float, ...] = (0.5, 0.3, 0.2)
    methods: tuple[Series, ...] = SERIES
    prompts: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    count: int = 32
    reference_steps: int | None = None
    fine_steps: int | None = None
    pictures: int | None = None
    iterations: int | None = None
    dip_go_iterations: int = 100
    random: int = 40
    seed: int = 0
    judge: Path | None = None
    features: Path | None = None
    precisions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options against each other."""
        if self.features is not None and self.judge is None:
            msg = "--features holds what a judge makes of real pictures; give --judge too"
            raise SearchError(msg)
        for file in (self.judge, self.features):
            if file is not None and not file.is_file():
                msg = f"there is no file {str(file)!r}; give the judge's ONNX or features file"
                raise SearchError(msg)
