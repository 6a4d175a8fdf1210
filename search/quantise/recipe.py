"""From a SubNet to its quantisation: ranges, the layers that must stay in floating point, fitted rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search.core.errors import SearchError
from search.core.quantisation import SCHEMES, SUFFIX, Layer, Quantisation, Scheme, digest
from search.fitting.fit import final_latents, fit_sampler
from search.fitting.trajectories import sample_both
from search.laptop.knapsack import choose
from search.model.predictor import Predictor
from search.quantise.calibration import calibrate
from search.quantise.layers import layers_in_loop, layers_of
from search.quantise.ranges import Kinds, Ranges
from search.quantise.rounded import quantised, rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

HALVINGS = 12
"""Steps of the bisection for the smallest share in floating point that meets an error."""
SPARE = 0.01
"""The share that stays in floating point may be this much smaller than asked for."""


@dataclass(frozen=True)
class QuantiseEffort:
    """How much to measure.

    Attributes:
        pictures: number to calibrate and fit on, and to judge by.
        probed: number of them that the error of each layer alone is measured on.
        seed: of the noise.
    """

    pictures: int = 16
    probed: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Quantised:
    """What one quantisation found; errors are mean relative L2 of held-out final latents.

    Attributes:
        plan: bound to `subnet`.
        subnet: with rows fitted to the quantised denoiser, where that helps.
        plain: error of the SubNet in floating point, against the full sampler.
        rounded: error of the quantised SubNet, against the full sampler, before rows are fitted.
        fitted: the same for `subnet`, after rows are fitted.
        drift: error of the quantised SubNet against itself in floating point, before rows are fitted.
        worst: the largest drift of a single picture.
        predicted: `drift` as the root of the layers' summed squares; None if layers were not measured.
        ranges: how the ranges of the layers' inputs were chosen.
        smoothing: its strength; None: no smoothing.
    """

    plan: Quantisation
    subnet: SubNet
    plain: float
    rounded: float
    fitted: float
    drift: float
    worst: float
    predicted: float | None
    ranges: Ranges
    smoothing: float | None

    def to_json(self) -> dict[str, Any]:
        """Its figures as plain JSON values."""
        return {
            "scheme": self.plan.scheme.name,
            "layers": len(self.plan.layers),
            "kept": len(self.plan.kept),
            "share": self.share,
            "error_float": self.plain,
            "error_quantised": self.rounded,
            "error_refitted": self.fitted,
            "drift": self.drift,
            "drift_worst": self.worst,
            "drift_predicted": self.predicted,
            "ranges": self.ranges.value,
            "smoothing": self.smoothing,
            "spans": self.plan.spans,
        }

    def save(self, file: Path) -> Path:
        """Write the SubNet to `file` and, beside it, the plan with these figures; returns its file."""
        self.subnet.save(file)
        plan = file.with_suffix(SUFFIX)
        self.recorded.save(plan)
        return plan

    @property
    def recorded(self) -> Quantisation:
        """The plan with these figures as its origin."""
        return replace(self.plan, origin=self.to_json())

    @property
    def share(self) -> float:
        """Of the layers' work that is quantised."""
        return sum(each.share for each in self.plan.layers.values())

    def sentence(self) -> str:
        """For people."""
        total = len(self.plan.layers) + len(self.plan.kept)
        return (
            f"{len(self.plan.layers)} of {total} layers in {self.plan.scheme.name}, {self.share:.0%} of "
            f"their work; error against the full sampler {self.fitted:.4f} (in floating point "
            f"{self.plain:.4f}, before fitting {self.rounded:.4f}), against itself in floating point "
            f"{self.drift:.4f}"
            + (f"; ranges in {self.plan.spans} spans of steps" if self.plan.starts else "")
        )


def quantise(
    pipeline: Pipeline,
    full: SubNet,
    subnet: SubNet,
    prompts: Sequence[str],
    *,
    scheme: Scheme,
    ranges: Ranges = Ranges.MINMAX,
    smoothing: float | None = None,
    spans: int = 1,
    kinds: Kinds = Kinds.ALL,
    share: float | None = None,
    most: float | None = None,
    refit: bool = True,
    effort: QuantiseEffort = QuantiseEffort(),
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> Quantised:
    """Choose which layers of the denoiser of `subnet` are quantised, and how.

    Each layer is quantised alone and its error measured on the final latents. A knapsack chooses the layers
    that stay in floating point, since errors of independent roundings add up by their squares (LAPTOP-Diff,
    section 3.2, for removals).

    Args:
        pipeline: with its weights loaded and the scheduler of `subnet`.
        full: the sampler that errors are measured against.
        subnet: to quantise.
        prompts: to calibrate on.
        scheme: of the numbers.
        ranges: how those of the inputs are chosen.
        smoothing: SmoothQuant's strength: 0 evens out the weights of the channels of linear layers, 1 their
            inputs; None: no smoothing.
        spans: of steps, each with ranges of its own, and so step graphs of its own.
        kinds: which layers may be quantised; the plan does not mention the others.
        share: of the work, to leave in floating point; None: as much as `most` needs, or none without it.
        most: the largest drift allowed, as predicted from the layers' own errors.
        refit: fit the rows of the sampler to the quantised denoiser.
        effort: how much to measure.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: the denoiser has no layer to quantise, `most` cannot be met, rows for a range of
            guidance scales would be fitted to one, or `ranges`, `smoothing` or `spans` are given for a
            scheme that does not round inputs.
    """
    if smoothing is not None or ranges is not Ranges.MINMAX or spans > 1:
        _require_inputs(scheme)
    if refit:
        _require_one_scale(subnet)
    runs = sample_both(
        pipeline,
        full,
        prompts,
        fitted_on=effort.pictures,
        held_out=effort.pictures,
        reference_steps=None,
        seed=effort.seed,
        report=report,
    )
    fitted_on, held_out = (each.first_pictures(effort.pictures) for each in runs)
    measure = _Measure(pipeline, subnet, pipeline.sampler_of(subnet))
    report("ranges of the layers' inputs")
    plan = _calibrated(
        measure,
        fitted_on,
        scheme=scheme,
        ranges=ranges,
        smoothing=smoothing,
        spans=spans,
        kinds=kinds,
    )
    layers = chosen = plan.layers
    predicted = None
    if share is not None or most is not None:
        layers = _probed(measure, plan, fitted_on.first_pictures(effort.probed), report)
        chosen = _to_quantise(layers, share, most)
        predicted = _together(chosen)
    plan = replace(
        plan,
        layers=chosen,
        kept={name: each for name, each in layers.items() if name not in chosen},
        fingerprint=subnet.binding.fingerprint,
    )
    report("fit the sampler to the quantised denoiser" if refit else "held-out errors")
    return _judged(
        measure, plan, fitted_on, held_out,
        refit=refit, predicted=predicted, ranges=ranges, smoothing=smoothing,
    )  # fmt: skip


def _judged(
    measure: _Measure,
    plan: Quantisation,
    fitted_on: Trajectories,
    held_out: Trajectories,
    *,
    refit: bool,
    predicted: float | None,
    ranges: Ranges,
    smoothing: float | None,
) -> Quantised:
    """The plan with its SubNet, whose rows are fitted if `refit`, and their errors on held-out pictures."""
    pipeline, made = measure.pipeline, measure.subnet
    own = measure(held_out)
    with quantised(pipeline, plan):
        off = measure(held_out)
        if refit:
            made = fit_sampler(
                pipeline, made, measure.table, fitted_on=fitted_on, held_out=held_out
            ).subnet
        best = _Measure(pipeline, made, pipeline.sampler_of(made))(held_out)
    drift = _relative(off, own)
    return Quantised(
        plan=replace(plan, subnet=digest(made)),
        subnet=made,
        plain=float(held_out.error(own).mean()),
        rounded=float(held_out.error(off).mean()),
        fitted=float(held_out.error(best).mean()),
        drift=float(drift.mean()),
        worst=float(drift.max()),
        predicted=predicted,
        ranges=ranges,
        smoothing=smoothing,
    )


def _require_inputs(scheme: Scheme) -> None:
    """Refuse options for inputs that are not rounded."""
    if not scheme.inputs:
        those = ", ".join(each.name for each in SCHEMES if each.inputs)
        msg = (
            f"{scheme.name} leaves the layers' inputs in floating point, and --ranges, --smoothing and --spans "
            f"are for inputs that are rounded; leave them out, or give --precision one of {those}"
        )
        raise SearchError(msg)


def _require_one_scale(subnet: SubNet) -> None:
    """Refuse to refit rows that are for a range of guidance scales."""
    if subnet.fitted is not None and subnet.fitted.by_scale is not None:
        msg = (
            "the rows of this SubNet are for a range of guidance scales, and would be fitted to the "
            f"quantised denoiser at guidance {subnet.guidance:g} alone; give --no-refit to keep them, or "
            "search without --guidance-range"
        )
        raise SearchError(msg)


@dataclass(frozen=True)
class _Measure:
    """Runs of one SubNet."""

    pipeline: Pipeline
    subnet: SubNet
    table: SamplerTable

    def __call__(self, runs: Trajectories) -> Tensor:
        """Final latents `[S, ...]`."""
        return final_latents(self.pipeline, self.subnet, self.table, runs)


def _calibrated(
    measure: _Measure,
    runs: Trajectories,
    *,
    scheme: Scheme,
    ranges: Ranges,
    smoothing: float | None,
    spans: int,
    kinds: Kinds,
) -> Quantisation:
    """The plan for all layers of these kinds that the SubNet calls in the loop."""
    layers = layers_of(measure.pipeline)
    if kinds is Kinds.LINEAR:
        layers = {name: each for name, each in layers.items() if isinstance(each, nn.Linear)}
    predictor = runs.first_pictures(1).predictor
    assert isinstance(predictor, Predictor)  # ranges are those of whole calls
    inside = layers_in_loop(predictor, layers, float(runs.timesteps[0]))
    found = calibrate(
        layers,
        inside,
        lambda: measure(runs),
        scheme=scheme,
        ranges=ranges,
        smoothing=smoothing,
        spans=spans,
    )
    if not found.layers:
        msg = (
            "the SubNet calls no layer that multiplies weights, so there is nothing to quantise; choose "
            "another SubNet"
        )
        raise SearchError(msg)
    return found


def _probed(
    measure: _Measure, plan: Quantisation, runs: Trajectories, report: Callable[..., None]
) -> dict[str, Layer]:
    """The layers with the error that each of them makes alone."""
    modules, own = layers_of(measure.pipeline), measure(runs)
    found, count = {}, len(plan.layers)
    for number, (name, layer) in enumerate(plan.layers.items()):
        report(f"layer {number + 1} of {count} alone", number / count)
        with rounded(modules, replace(plan, layers={name: layer})):
            error = float(_relative(measure(runs), own).mean())
        found[name] = replace(layer, error=error)
    return found


def _to_quantise(
    layers: Mapping[str, Layer], share: float | None, most: float | None
) -> dict[str, Layer]:
    """The layers to quantise so that `share` of the work stays in floating point, or `most` is met."""
    if share is not None:
        return _all_but(layers, share)
    assert most is not None
    low, high = 0.0, 1.0
    if _together(_all_but(layers, low)) <= most:
        return _all_but(layers, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _together(_all_but(layers, middle)) <= most else (middle, high)
    chosen = _all_but(layers, high)
    if not chosen:
        msg = (
            f"every set of layers is predicted to drift by more than {most:g}; allow a larger error with "
            "--max-error"
        )
        raise SearchError(msg)
    return chosen


def _all_but(layers: Mapping[str, Layer], share: float) -> dict[str, Layer]:
    """All layers except those with `share` of the work whose summed squared errors are largest."""
    if share <= 0:
        return dict(layers)
    names = list(layers)
    chosen = choose(
        ends=range(1, len(names) + 1),
        shares=[layers[name].share for name in names],
        scores=[(layers[name].error or 0.0) ** 2 for name in names],
        keep=min(share, 1.0),
        tolerance=SPARE,
    )
    return {names[index]: layers[names[index]] for index in sorted(chosen)}


def _together(layers: Mapping[str, Layer]) -> float:
    """The predicted error of all of them."""
    return math.sqrt(sum((each.error or 0.0) ** 2 for each in layers.values()))


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    """Relative L2 per picture."""
    difference = (found - expected).flatten(1).norm(dim=1)
    relative: Tensor = difference / expected.flatten(1).norm(dim=1)
    return torch.nan_to_num(relative, nan=torch.inf)
