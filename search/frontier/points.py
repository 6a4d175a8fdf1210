"""A frontier: every evaluated SubNet, the ranking at each keep and who wins it. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search.frontier.candidate import SLACK
from search.frontier.distance import Baseline, Statistic
from search.frontier.registry import SERIES
from search.frontier.rivals.searches import CARVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.quantisation import Quantisation
    from search.core.subnet import SubNet
    from search.frontier.quality import Quality
    from search.frontier.series import Series
    from search.frontier.settings import FrontierSettings

SCHEMA = 2
KIND = "stepcarve-frontier"


@dataclass(frozen=True)
class Point:
    """One evaluated SubNet.

    Attributes:
        method: what made it.
        label: tells it from others of the method.
        keep: what it was made for.
        is_fitted: whether its sampler was calibrated.
        cost: its MACs as a fraction of the full sampler's.
        calls: of the denoiser, whole or in part.
        quality: on held-out pictures.
        subnet: what was evaluated; None where no SubNet says what was.
        plan: by which its denoiser rounded; None: not at all.
        weights_bytes: of the denoiser as it is stored; None: unknown.
    """

    method: Series
    label: str
    keep: float
    is_fitted: bool
    cost: float
    calls: int
    quality: Quality
    subnet: SubNet | None
    plan: Quantisation | None = None
    weights_bytes: int | None = None

    @property
    def precision(self) -> str:
        """The scheme of its plan; empty in floating point."""
        return "" if self.plan is None else self.plan.scheme.name

    @property
    def name(self) -> str:
        """For people."""
        has_fit = self.is_fitted and not self.method.fits_itself
        words = (f"{self.method} {self.label}", "fitted" if has_fit else "", self.precision)
        return ", ".join(filter(None, words))

    @property
    def file(self) -> str | None:
        """Where its SubNet is, within the frontier's directory."""
        if self.subnet is None:
            return None
        words = f"{self.method} {self.label}{' fitted' if self.is_fitted else ''} {self.precision}"
        return f"subnets/{words.strip().replace(' ', '-')}.json"

    def value(self, target: Baseline, statistic: Statistic) -> float:
        """Its distance to a target."""
        return self.quality.distances[target].value(statistic)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "method": self.method.name,
            "label": self.label,
            "name": self.name,
            "keep": self.keep,
            "fitted": self.is_fitted,
            "cost": self.cost,
            "calls": self.calls,
            "precision": self.precision or None,
            "weights_bytes": self.weights_bytes,
            **self.quality.to_json(),
            "subnet": self.file,
        }


@dataclass(frozen=True)
class Verdict:
    """Who wins at one keep, by one number.

    Attributes:
        target: what the distance is to.
        statistic: of the pictures' errors.
        winner: the point with the least.
        tied: the others whose difference to it may be chance, by a paired bootstrap over the pictures.
    """

    target: Baseline
    statistic: Statistic
    winner: Point
    tied: tuple[Point, ...]

    def mark(self, point: Point) -> str:
        """A star for the winner, `=` for one that cannot be told apart from it."""
        if point is self.winner:
            return "*"
        return "=" if any(point is each for each in self.tied) else ""

    def sentence(self) -> str:
        """For people."""
        what = f"{self.statistic} distance to the {self.target} sampler: {self.winner.name} wins"
        if not self.tied:
            return f"{what}, beyond chance"
        return f"{what}, but cannot be told apart from {', '.join(each.name for each in self.tied)}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "target": self.target.value,
            "statistic": self.statistic.value,
            "winner": self.winner.name,
            "not_told_apart": [each.name for each in self.tied],
        }


@dataclass(frozen=True)
class Comparison:
    """All points that cost no more than a keep.

    Attributes:
        keep: of the full sampler's cost.
        points: within it.
    """

    keep: float
    points: tuple[Point, ...]

    @cached_property
    def ranking(self) -> tuple[Point, ...]:
        """The best of each series and precision, plain and fitted, by the mean distance to the fine reference."""

        def distance(point: Point) -> float:
            return point.value(Baseline.FINE, Statistic.MEAN)

        plain = [p.subnet for p in self.points if not p.is_fitted and not p.precision]
        distinct = [
            point
            for point in self.points
            # A fit without effect is the plain SubNet again.
            if point.precision
            or not (point.is_fitted and any(point.subnet is each for each in plain))
        ]
        groups = itertools.groupby(sorted(distinct, key=_group), key=_group)
        best = [min(points, key=distance) for _, points in groups]
        return tuple(sorted(best, key=distance))

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Who wins, for each target and statistic."""
        pairs = itertools.product(Baseline, Statistic) if self.points else ()
        return tuple(self._verdict(target, statistic) for target, statistic in pairs)

    def _verdict(self, target: Baseline, statistic: Statistic) -> Verdict:
        winner = min(self.ranking, key=lambda point: point.value(target, statistic))
        own = winner.quality.distances[target]
        tied = [
            point
            for point in self.ranking
            if point is not winner and not point.quality.distances[target].is_apart(own, statistic)
        ]
        tied.sort(key=lambda point: point.value(target, statistic))
        return Verdict(target, statistic, winner, tuple(tied))

    def marks(self, point: Point) -> dict[tuple[Baseline, Statistic], str]:
        """What each verdict says of a point."""
        return {(each.target, each.statistic): each.mark(point) for each in self.verdicts}

    def ratio(self, point: Point, target: Baseline) -> float | None:
        """The mean distance of carve over that of a point; None without carve, or where there is no distance."""
        ours = [each for each in self.ranking if each.method is CARVE]
        theirs = point.value(target, Statistic.MEAN)
        if not ours or point.method is CARVE or theirs == 0:
            return None
        return ours[0].value(target, Statistic.MEAN) / theirs

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "keep": self.keep,
            "ranking": [
                {
                    "name": point.name,
                    "cost": point.cost,
                    **{t.value: point.value(t, Statistic.MEAN) for t in Baseline},
                    "carve_over_this": {t.value: self.ratio(point, t) for t in Baseline},
                }
                for point in self.ranking
            ],
            "verdicts": [each.to_json() for each in self.verdicts],
        }


def _group(point: Point) -> tuple[int, bool, str]:
    return SERIES.index(point.method), point.is_fitted, point.precision


def compare(points: Sequence[Point], keep: float) -> Comparison:
    """The points within `keep` of the full sampler's cost."""
    return Comparison(keep, tuple(point for point in points if point.cost <= keep + SLACK))


@dataclass(frozen=True)
class Frontier:
    """All that was found.

    Attributes:
        pipeline: its directory, as it was given.
        settings: of the comparison.
        whole: the full sampler.
        fine_steps: inference steps of the fine reference.
        prompts: calibrated with, and evaluated with.
        reference: what the Fréchet distance is to, or None without a judge.
        full: the full sampler's own quality.
        points: every evaluated SubNet.
        notes: what was left out, and why.
    """

    pipeline: str
    settings: FrontierSettings
    whole: SubNet
    fine_steps: int
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    reference: str | None
    full: Quality
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    @cached_property
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
                "call": dict(binding.call),
                "split_streams": binding.split_streams,
                "fine_steps": self.fine_steps,
                "prompts": calibration,
                "held_out": held_out,
            },
            "frechet_to": self.reference,
            "full": self.full.to_json(),
            "points": [point.to_json() for point in self.points],
            "comparisons": [each.to_json() for each in self.comparisons],
            "notes": self.notes,
        }
