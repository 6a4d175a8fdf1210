"""A frontier: every evaluated SubNet, and the best at each keep. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.frontier.series import CARVE, DIP_GO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from search.core.subnet import SubNet
    from search.frontier.quality import Quality
    from search.frontier.series import Series
    from search.frontier.settings import FrontierSettings

SCHEMA = 1
KIND = "stepcarve-frontier"
SLACK = 1e-9
"""Of comparisons between costs."""


@dataclass(frozen=True)
class Point:
    """One evaluated SubNet.

    Attributes:
        method: what made it.
        label: tells it from others of the method.
        keep: what it was made for; None where the cost is what it is.
        is_fitted: whether its sampler was calibrated.
        cost: its MACs as a fraction of the full sampler's.
        calls: of the denoiser, whole or in part.
        quality: on held-out pictures.
        subnet: what was evaluated.
    """

    method: Series
    label: str
    keep: float | None
    is_fitted: bool
    cost: float
    calls: int
    quality: Quality
    subnet: SubNet

    @property
    def name(self) -> str:
        """For people."""
        has_fit = self.is_fitted and not self.method.fits_itself
        return f"{self.method} {self.label}{', fitted' if has_fit else ''}"

    @property
    def file(self) -> str:
        """Where its SubNet is, within the frontier's directory."""
        words = f"{self.method} {self.label}{' fitted' if self.is_fitted else ''}"
        return f"subnets/{words.replace(' ', '-')}.json"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "method": self.method.name,
            "label": self.label,
            "keep": self.keep,
            "fitted": self.is_fitted,
            "cost": self.cost,
            "calls": self.calls,
            **vars(self.quality),
            "subnet": self.file,
        }


@dataclass(frozen=True)
class Comparison:
    """The contenders at one keep; those that are missing are None.

    Attributes:
        keep: none of them costs more.
        ours: made for this keep.
        baseline: the one with the least error and the scheduler's own rows.
        fitted_baseline: the one with the least error and fitted rows.
        dip_go: made for this keep.
        fitted_dip_go: likewise, with fitted rows.
    """

    keep: float
    ours: Point | None
    baseline: Point | None
    fitted_baseline: Point | None
    dip_go: Point | None
    fitted_dip_go: Point | None

    @property
    def contenders(self) -> dict[str, Point]:
        """Those there are, by what they are."""
        named = {
            "carve": self.ours,
            "best plain baseline": self.baseline,
            "best fitted baseline": self.fitted_baseline,
            "dip-go": self.dip_go,
            "dip-go, fitted": self.fitted_dip_go,
        }
        return {role: point for role, point in named.items() if point is not None}

    def ratio(self, other: Point) -> float | None:
        """Our error over that of `other`; None without ours, or where the other has none."""
        if self.ours is None or other is self.ours or other.quality.error == 0:
            return None
        return self.ours.quality.error / other.quality.error

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "keep": self.keep,
            "contenders": {
                role: {
                    "subnet": point.file,
                    "cost": point.cost,
                    "error": point.quality.error,
                    "ours_over_this": self.ratio(point),
                }
                for role, point in self.contenders.items()
            },
        }


def compare(points: Sequence[Point], keep: float) -> Comparison:
    """The best points within `keep` of the full sampler's cost."""
    affordable = [point for point in points if point.cost <= keep + SLACK]

    def best(test: Callable[[Point], bool]) -> Point | None:
        return _best(point for point in affordable if test(point))

    return Comparison(
        keep=keep,
        ours=best(lambda p: p.method is CARVE and p.keep == keep),
        baseline=best(lambda p: not p.method.is_search and not p.is_fitted),
        fitted_baseline=best(lambda p: not p.method.is_search and p.is_fitted),
        dip_go=best(lambda p: p.method is DIP_GO and p.keep == keep and not p.is_fitted),
        fitted_dip_go=best(lambda p: p.method is DIP_GO and p.keep == keep and p.is_fitted),
    )


def _best(points: Iterable[Point]) -> Point | None:
    return min(points, key=lambda point: point.quality.error, default=None)


@dataclass(frozen=True)
class Frontier:
    """All that was found.

    Attributes:
        pipeline: its directory, as it was given.
        settings: of the comparison.
        whole: the full sampler.
        prompts: calibrated with, and evaluated with.
        reference: what the Fréchet distance is to, or None without a judge.
        full: the full sampler's own quality.
        points: every evaluated SubNet.
        notes: what was left out, and why.
    """

    pipeline: str
    settings: FrontierSettings
    whole: SubNet
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    reference: str | None
    full: Quality
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """One per keep, the largest first."""
        return tuple(compare(self.points, k) for k in sorted(self.settings.keeps, reverse=True))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        binding, topology = self.whole.binding, self.whole.topology
        settings = {
            name: str(value) if name in ("judge", "features") and value is not None else value
            for name, value in vars(self.settings).items()
        }
        calibration, held_out = self.prompts
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "pipeline": self.pipeline,
            "denoiser": binding.denoiser,
            "fingerprint": binding.fingerprint,
            "scheduler": binding.scheduler,
            "calls": self.whole.full_calls,
            "macs": self.whole.full_calls * topology.macs,
            "settings": {
                **settings,
                "methods": [each.name for each in self.settings.methods],
                "guidance": self.whole.guidance,
                "prompts": calibration,
                "held_out": held_out,
            },
            "frechet_to": self.reference,
            "full": vars(self.full),
            "points": [point.to_json() for point in self.points],
            "comparisons": [each.to_json() for each in self.comparisons],
            "notes": self.notes,
        }
