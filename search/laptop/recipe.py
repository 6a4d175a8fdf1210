"""From a pipeline to SubNets that leave layers out: scores, additivity, knapsack."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from search.core.errors import SearchError
from search.core.files import write_atomically
from search.laptop import additivity
from search.laptop.baselines import magnitudes, taylor
from search.laptop.knapsack import TOLERANCE, choose
from search.laptop.layers import Layers, constant, layers_of
from search.laptop.noising import Noising
from search.laptop.probe import PROBES, Measure
from search.laptop.settings import Criterion, LaptopSettings
from search.laptop.store import FULL, TUPLES, Store
from search.laptop.tuples import Tuples, draw_tuples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.laptop.additivity import Additivity
    from search.model.pipeline import Pipeline

POWERS = (0.5, 0.75)
QUANTILES = (0.1, 0.25, 0.5, 0.75)
"""What a missing layer costs beyond its score, as quantiles of the scores."""
STAGES = 4
"""Of removing more and more."""
STARTS = 1
"""Sets whose neighbours are looked at."""
ALTERNATIVES = 2
"""To each chosen layer."""
ROUNDING = 1e-6
"""Of shares that are added up."""
ATTEMPTS = 8
"""Shares that do not quite add up are corrected so often."""


@dataclass(frozen=True)
class Removal:
    """What one search found.

    Attributes:
        subnets: one for each keep.
        losses: of each; `additivity.loss_name` names which loss it is.
        predicted: the sum of the scores of what each removes.
        additivity: of the scores.
    """

    subnets: list[SubNet]
    losses: list[float]
    predicted: list[float]
    additivity: Additivity

    def sentence(self) -> str:
        """For people."""
        each = "; ".join(
            f"{subnet.method}: {self.additivity.loss_name} loss {loss:.3g}, predicted {predicted:.3g}"
            for subnet, loss, predicted in zip(
                self.subnets, self.losses, self.predicted, strict=True
            )
        )
        return f"{each}\n{self.additivity.sentence()}"


def remove_layers(
    pipeline: Pipeline,
    full: SubNet,
    keeps: Sequence[float],
    *,
    prompts: Sequence[str],
    settings: LaptopSettings,
    cost: Cost,
    folder: Path | None = None,
    resume: bool = False,
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> Removal:
    """Leave out the layers that matter least, for each of `keeps`.

    Args:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: every block at every step; its granularity says what layers there are.
        keeps: fractions of the cost.
        prompts: to draw tuples with.
        settings: the criterion, and how to run.
        cost: of a SubNet, as a fraction of the full sampler's.
        folder: for losses, scores and the plot, or None; on a cluster, one that all machines share.
        resume: go on from what is in `folder`.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: no layer can be left out, a keep is out of reach, the criterion does not know the
            scheduler, or `folder` holds another search.
    """
    layers = layers_of(full)
    if settings.criterion.is_noised:
        Noising.of(pipeline.pipe.scheduler, otherwise=", or search with --criterion output")
    price = constant(cost)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="stepcarve-")))
        measure = _measure(
            pipeline, layers, prompts, settings, Store(folder), resume=resume, report=report
        )
        scores = _scores(measure)
        report("cost of each layer")
        shares = layers.shares(price)
        drawn = additivity.random_subsets(layers, shares, seed=settings.seed)
        true = measure([one for _, one in drawn], settings.criterion.objective, "additivity")
        found = additivity.additivity(scores, drawn, true, settings.criterion.objective)
        chosen = [_chosen(measure, shares, scores, keep, price) for keep in keeps]
        losses = measure(chosen, settings.criterion.objective, "what was chosen")
        _write(measure.store, layers, shares, scores, found)
    predicted = [sum(scores[layer] for layer in one) for one in chosen]
    subnets = [
        layers.without(one, f"laptop {settings.criterion} keep {keep:g}")
        for one, keep in zip(chosen, keeps, strict=True)
    ]
    return Removal(subnets, losses, predicted, found)


def _measure(
    pipeline: Pipeline,
    layers: Layers,
    prompts: Sequence[str],
    settings: LaptopSettings,
    store: Store,
    *,
    resume: bool,
    report: Callable[..., None],
) -> Measure:
    """What measures losses, from tuples that are drawn now or were by the search that goes on."""
    full = layers.full
    identity = {
        "full": hashlib.sha256(json.dumps(full.to_json(), sort_keys=True).encode()).hexdigest(),
        "prompts": list(prompts),
        "tuples": settings.tuples,
        "seed": settings.seed,
        "dtype": pipeline.dtype,
    }
    known = store.begin(identity, resume=resume)
    file = store.path / TUPLES
    if known and file.is_file():
        tuples = Tuples.load(file)
    else:
        tuples = draw_tuples(
            pipeline, full, prompts, count=settings.tuples, seed=settings.seed, report=report
        )
        full.save(store.path / FULL)
        tuples.save(file)
    run = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Measure(pipeline, layers, tuples, settings, store, known, run, report)


def _scores(measure: Measure) -> list[float]:
    """One per layer, by the criterion."""
    layers, criterion = measure.layers, measure.settings.criterion
    if criterion in PROBES:
        single = [frozenset({layer}) for layer in range(len(layers.names))]
        return measure(single, criterion, f"{criterion} of each layer")
    measure.report(f"{criterion} of each layer")
    if criterion is Criterion.MAGNITUDE:
        return magnitudes(measure.pipeline, layers)
    return taylor(measure.pipeline, layers, measure.tuples)


def _chosen(
    measure: Measure, shares: Sequence[float], scores: Sequence[float], keep: float, cost: Cost
) -> frozenset[int]:
    """The knapsack's choice; with rounds, the set of least true loss among its neighbours."""
    layers, rounds = measure.layers, measure.settings.rounds
    first = within(layers, shares, scores, keep, cost)
    if not rounds:
        return first
    starts = [
        one for view in _views(measure, scores) for one in _if_any(layers, shares, view, keep, cost)
    ]
    starts += _step_by_step(measure, shares, scores, keep, cost)
    ranked = _ranked(measure, [first, *starts], f"keep {keep:g}: ways to add up")
    ends = [
        _descended(measure, shares, scores, start, keep, cost, f"keep {keep:g}, start {i + 1}")
        for i, start in enumerate(ranked[:STARTS])
    ]
    best = _ranked(measure, ends, f"keep {keep:g}: choice")[0]
    return best if _is_sure(measure, first, best) else first


def _if_any(
    layers: Layers, shares: Sequence[float], scores: Sequence[float], keep: float, cost: Cost
) -> list[frozenset[int]]:
    """What `within` finds; empty where the budget cannot be met, since this is only an alternative."""
    with suppress(SearchError):
        return [within(layers, shares, scores, keep, cost)]
    return []


def _step_by_step(
    measure: Measure, shares: Sequence[float], scores: Sequence[float], keep: float, cost: Cost
) -> list[frozenset[int]]:
    """Remove layers in rounds, with scores measured again after each; empty if none fits."""
    layers, view = measure.layers, scores
    for number in range(1, STAGES):
        there = 1 - (1 - keep) * number / STAGES
        loose = (1 - keep) / STAGES / 2
        chosen = choose(layers.ends, shares, view, keep=there, tolerance=loose)
        view = _scores_around(measure, chosen, f"keep {keep:g}, by way of {there:.2g}")
    return _if_any(layers, shares, view, keep, cost)


def _descended(
    measure: Measure,
    shares: Sequence[float],
    scores: Sequence[float],
    start: frozenset[int],
    keep: float,
    cost: Cost,
    what: str,
) -> frozenset[int]:
    """The best of a set's neighbours, and of its neighbours in turn."""
    best, rounds = start, measure.settings.rounds
    for number in range(rounds):
        around = _scores_around(measure, best, f"{what}, round {number + 1} of {rounds}")
        near = _spared(measure.layers, shares, [scores, around], best, keep, cost)
        better = _ranked(measure, [best, *near], f"{what}, neighbours")[0]
        if better == best:
            break
        best = better
    return best


def _spared(
    layers: Layers,
    shares: Sequence[float],
    views: Sequence[Sequence[float]],
    chosen: frozenset[int],
    keep: float,
    cost: Cost,
) -> list[frozenset[int]]:
    """The knapsack's choices if one of the chosen layers must stay, and what took its place, and so on."""
    found: list[frozenset[int]] = []
    # Without one of them the rest may be too coarse for the budget.
    least = min(keep - TOLERANCE, cost(layers.without(chosen))) - ROUNDING
    for view in views:
        for layer in chosen:
            spared, now = {layer}, chosen
            for _ in range(ALTERNATIVES):
                left = [0.0 if i in spared else share for i, share in enumerate(shares)]
                [now] = _if_any(layers, left, view, keep, cost) or [now]
                found.append(now)
                spared |= now - chosen
        found += _if_any(layers, shares, view, keep, cost)
    return [one for one in dict.fromkeys(found) if cost(layers.without(one)) >= least]


def _scores_around(measure: Measure, chosen: frozenset[int], what: str) -> list[float]:
    """Per layer, the rise of the objective if it is removed beside the chosen ones, without those it overlaps."""
    layers = measure.layers
    count = len(layers.names)
    rest = [
        frozenset(other for other in chosen if other != i and layers.are_apart({i, other}))
        for i in range(count)
    ]
    both = [one | {i} for i, one in enumerate(rest)]
    losses = measure([*rest, *both], measure.settings.criterion.objective, what)
    return [there - here for here, there in zip(losses[:count], losses[count:], strict=True)]


def _is_sure(measure: Measure, first: frozenset[int], other: frozenset[int]) -> bool:
    """Whether the other set has less loss by more than the tuples' chance: a standard error."""
    parts = measure.parts([first, other], measure.settings.criterion.objective, "choice")
    gain = np.asarray(parts[0]) - np.asarray(parts[1])
    return bool(gain.mean() > gain.std() / len(gain) ** 0.5)


def _ranked(measure: Measure, sets: Sequence[frozenset[int]], what: str) -> list[frozenset[int]]:
    """Each set once, those of least loss first."""
    distinct = list(dict.fromkeys(sets))
    losses = measure(distinct, measure.settings.criterion.objective, what)
    return [distinct[i] for i in sorted(range(len(distinct)), key=losses.__getitem__)]


def _views(measure: Measure, scores: Sequence[float]) -> list[list[float]]:
    """Scores for the knapsack to go by, beside the plain ones, which make too little of many small changes.

    Changes that point the same way add up by their norms, not by their squares; and each layer that is
    missing costs something beyond its score.
    """
    plain = np.maximum(np.asarray(scores), 0)
    powers = [plain**power for power in POWERS]
    raised = [plain + extra for extra in np.quantile(plain, QUANTILES)]
    others = [magnitudes(measure.pipeline, measure.layers)]
    return [list(scores), *(view.tolist() for view in (*powers, *raised)), *others]


def within(
    layers: Layers, shares: Sequence[float], scores: Sequence[float], keep: float, cost: Cost
) -> frozenset[int]:
    """The knapsack's choice with the cost as it really is: shares need not quite add up."""
    wanted, fitting, tried = keep, dict[frozenset[int], float](), set[frozenset[int]]()
    for _ in range(ATTEMPTS):
        try:
            chosen = choose(layers.ends, shares, scores, keep=min(max(wanted, 0.0), 1.0))
        except SearchError:
            if not tried:
                raise
            break  # a corrected budget is out of reach; it is not the requested one
        if chosen in tried:
            break
        tried.add(chosen)
        really = cost(layers.without(chosen))
        wanted += keep - really
        if really <= keep + ROUNDING:
            fitting[chosen] = really
            if really >= keep - TOLERANCE:
                break
    if not fitting:
        msg = (
            f"no choice of layers was found that keeps {keep:g} of the cost, whose shares do not add up; "
            "change --keep a little, or choose another --cost"
        )
        raise SearchError(msg)
    return max(fitting, key=fitting.__getitem__)


def _write(
    store: Store,
    layers: Layers,
    shares: Sequence[float],
    scores: Sequence[float],
    found: Additivity,
) -> None:
    table = [
        {"layer": name, "share": share, "score": score}
        for name, share, score in zip(layers.names, shares, scores, strict=True)
    ]
    store.conclude(table, found.to_json())
    write_atomically(store.path / "additivity.png", additivity.draw(found))
