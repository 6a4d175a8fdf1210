"""What `stepcarve optimize` is asked for. No framework."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError
from search.core.versions import version_of
from search.methods.options import Options

if TYPE_CHECKING:
    from pathlib import Path

SEARCHES = ("carve", "dip-go", "fewer-steps", "random")
"""Methods that search for a given cost and can be drawn beside others; the first is the default."""
KEEPS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
"""Tried where the goal is a quality."""
DEFAULT_KEEP = 0.3


@dataclass(frozen=True)
class Tier:
    """How much work to do.

    Attributes:
        name: on the command line.
        pictures: to search with, times what the method takes by default.
        iterations: of its optimiser, likewise.
        held_out: pictures to compare with.
        finer: steps of the fine reference that they are compared with too, times the full sampler's.
        rounds: of the measurement of seconds.
        probed: pictures on which each layer is quantised alone.
        quantises: whether quantised layers are tried without being asked for.
    """

    name: str
    pictures: float
    iterations: float
    held_out: int
    finer: int
    rounds: int
    probed: int
    quantises: bool


TIERS = (
    Tier(
        "quick",
        pictures=1 / 6,
        iterations=1 / 4,
        held_out=8,
        finer=2,
        rounds=3,
        probed=1,
        quantises=False,
    ),
    Tier(
        "good", pictures=1, iterations=1, held_out=32, finer=4, rounds=5, probed=2, quantises=True
    ),
    Tier(
        "best", pictures=2, iterations=4, held_out=64, finer=10, rounds=9, probed=4, quantises=True
    ),
)
"""The second is the default."""


def tier_named(name: str) -> Tier:
    """The one called `name`; a `KeyError` if there is none."""
    return {each.name: each for each in TIERS}[name]


@dataclass(frozen=True)
class Goal:
    """What is wanted: a cost, or a quality at the least cost. Exactly one of them is given.

    Attributes:
        keep: fraction of the full sampler's MACs.
        speedup: how many times fewer MACs.
        max_error: mean relative L2 error of the final latents, on pictures no search has seen.
        min_psnr: mean PSNR of these pictures, in dB.
    """

    keep: float | None = None
    speedup: float | None = None
    max_error: float | None = None
    min_psnr: float | None = None

    def __post_init__(self) -> None:
        """Refuse several goals."""
        given = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]
        if len(given) != 1:
            msg = f"{' and '.join(given) or 'nothing'} is the goal; give one goal"
            raise EngineError(msg)

    @property
    def is_quality(self) -> bool:
        """Whether the goal is a quality, not a cost."""
        return self.max_error is not None or self.min_psnr is not None

    @property
    def keeps(self) -> tuple[float, ...]:
        """Costs to try, the lowest first; the one there is, if the goal is a cost."""
        if self.keep is not None:
            return (self.keep,)
        return KEEPS if self.speedup is None else (1 / self.speedup,)

    def is_met(self, *, error: float, psnr: float) -> bool:
        """Whether a SubNet of this quality is good enough; always, if the goal is a cost."""
        if self.max_error is not None:
            return error <= self.max_error
        return self.min_psnr is None or psnr >= self.min_psnr

    def __str__(self) -> str:
        words = {
            "keep": f"{self.keep:.0%} of the full MACs" if self.keep else "",
            "speedup": f"{self.speedup:g} x fewer MACs" if self.speedup else "",
            "max_error": f"an error of at most {self.max_error:g}" if self.max_error else "",
            "min_psnr": f"a PSNR of at least {self.min_psnr:g} dB" if self.min_psnr else "",
        }
        return "".join(words.values())


@dataclass(frozen=True)
class OptimizeSettings:
    """Everything that decides what `stepcarve optimize` makes.

    Attributes:
        pipeline: its directory.
        goal: what is wanted.
        tier: how much work to do.
        method: one of `SEARCHES`.
        options: of the full sampler, prompts and seed.
        scheduler: a class or a short name; None is the pipeline's own.
        scheduler_options: settings of it to change.
        call: further arguments of the pipeline's call.
        split_streams: search with a call for each half of guidance where the pipeline makes one for both.
        engines: to choose from; none stands for all that run here.
        dtypes: to choose from; what is not quantised is in the first.
        precisions: schemes of quantisation to choose from too; None: what the engines multiply fast in,
            if the tier says so.
        device: of searches and engines.
        threads: of PyTorch and engines while they are measured; None leaves them as many as they take.
        compute_capability: of the GPU that plans are built for; None is this machine's.
    """

    pipeline: Path
    goal: Goal = field(default_factory=lambda: Goal(keep=DEFAULT_KEEP))
    tier: Tier = TIERS[1]
    method: str = SEARCHES[0]
    options: Options = field(default_factory=Options)
    scheduler: str | None = None
    scheduler_options: tuple[tuple[str, Any], ...] = ()
    call: tuple[tuple[str, Any], ...] = ()
    split_streams: bool = False
    engines: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    precisions: tuple[str, ...] | None = None
    device: str = "cpu"
    threads: int | None = None
    compute_capability: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What a folder is continued with, as JSON values."""
        skipped = ("pipeline", "goal", "tier", "options")
        mine = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        return {
            "version": version_of("stepcarve"),
            "pipeline": str(self.pipeline.resolve()),
            "goal": str(self.goal),
            "quality": self.tier.name,
            **mine,
            **vars(self.options),
        }
