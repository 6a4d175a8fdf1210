"""Blocks reused by fixed rules: DeepCache, FORA, SmoothCache, random tables.

DeepCache is arXiv 2312.00858, FORA arXiv 2407.01425, SmoothCache arXiv 2411.10510.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from search.core.actions import Action
from search.core.table import keep_of, with_actions
from search.core.topology import TargetKind
from search.foreign.smoothcache_file import LayerSchedule
from search.foreign.tables import reusing_layers
from search.frontier.candidate import SLACK, Candidate, require_any
from search.frontier.rivals.branches import branches
from search.frontier.rivals.taylorseer import within
from search.frontier.series import Series
from search.methods import deepcache, random_cells, schedules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.core.subnet import SubNet
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report

    Changes = Mapping[str, Mapping[tuple[int, int], float]]
    """Kind of layer -> (step, later step) -> how far its output moves, relative and mean."""

REACH = 12
"""Steps over which SmoothCache may reuse, so that outputs of so many are remembered."""


def _deepcache(calibration: Calibration, report: Report) -> list[Candidate]:
    """Per keep, the branch that does best with the smallest interval that is cheap enough."""
    whole = calibration.whole
    found, least = list[Candidate](), 1.0
    tables = {
        (interval, branch): schedules.deepcache(whole, interval=interval, branch=branch)
        for branch in schedules.deepcache_branches(whole.topology.blocks)
        for interval in range(2, whole.steps + 1)
    }
    costs = {key: keep_of(subnet) for key, subnet in tables.items()}
    for keep in calibration.settings.keeps:
        report(f"deepcache: keep {keep:g}")
        cheap = [key for key, cost in costs.items() if cost <= keep + SLACK]
        least = min(least, *costs.values())
        first = {branch: interval for interval, branch in sorted(cheap, reverse=True)}
        distinct = {
            tables[interval, branch].actions: Candidate(
                DEEPCACHE,
                f"keep {keep:g} interval {interval} branch {branch}",
                keep,
                tables[interval, branch],
                calibration.table,
            )
            for branch, interval in first.items()
        }
        found += [calibration.best(distinct.values())] if distinct else []
    return require_any(DEEPCACHE, found, least)


def _fora(calibration: Calibration, report: Report) -> list[Candidate]:
    """Attentions and feed-forwards run at every n-th step and are reused at the others."""
    del report
    return within(calibration, FORA, partial(fora_table, calibration.layers))


def fora_table(layers: SubNet, interval: int) -> SubNet:
    """FORA's table (Selvaraju et al. 2024), from the full sampler at layer granularity."""
    chosen = branches(layers, FORA)
    return with_actions(
        layers,
        lambda step, block: Action.REUSE if block in chosen and step % interval else Action.RUN,
        method=f"fora interval {interval}",
    )


def _smoothcache(calibration: Calibration, report: Report) -> list[Candidate]:
    """Per keep, the smallest threshold that is cheap enough."""
    report("smoothcache: how far outputs move")
    layers = calibration.layers
    changes = layer_changes(calibration)
    thresholds = sorted({moved for pairs in changes.values() for moved in pairs.values()})
    found, least = list[Candidate](), 1.0
    for keep in calibration.settings.keeps:
        low, high, cheap = 0, len(thresholds), None
        while low < high:
            middle = (low + high) // 2
            schedule = smooth_schedule(changes, thresholds[middle], layers.steps)
            subnet = reusing_layers(layers, schedule)
            cost = keep_of(subnet)
            least = min(least, cost)
            if cost <= keep + SLACK:
                high, cheap = middle, (thresholds[middle], subnet)
            else:
                low = middle + 1
        if cheap is not None:
            label = f"keep {keep:g} threshold {cheap[0]:.3g}"
            found.append(Candidate(SMOOTHCACHE, label, keep, cheap[1], calibration.table))
    return require_any(SMOOTHCACHE, found, least)


def layer_changes(calibration: Calibration) -> Changes:
    """Along the full sampler, the relative L1 change of each kind of layer's outputs between two steps."""
    from search.fitting.fit import final_latents

    layers = calibration.layers
    chosen, names = branches(layers, SMOOTHCACHE), layers.topology.blocks
    last: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    sums: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))

    def look(step: int, target: Any, tensor: Any) -> None:
        if target.kind is not TargetKind.PORT:
            return
        block = layers.topology.ports[target.port].block
        if block not in chosen:
            return
        kind = names[block].rpartition(".")[2]
        for before, earlier in last[target.port]:
            moved = float((tensor - earlier).abs().sum() / tensor.abs().sum())
            sums[kind][before, step].append(moved)
        last[target.port] = [*last[target.port], (step, tensor)][-REACH:]

    final_latents(calibration.pipeline, layers, calibration.table, calibration.few, observe=look)
    return {
        kind: {pair: sum(moved) / len(moved) for pair, moved in pairs.items()}
        for kind, pairs in sums.items()
    }


def smooth_schedule(changes: Changes, threshold: float, steps: int) -> LayerSchedule:
    """A kind of layer is computed again once its output has moved by `threshold` since it was."""
    found: dict[tuple[str, int | None], tuple[bool, ...]] = {}
    for kind, pairs in changes.items():
        computes, last = [True], 0
        for step in range(1, steps):
            reuses = pairs.get((last, step), float("inf")) <= threshold
            computes.append(not reuses)
            last = last if reuses else step
        found[kind, None] = tuple(computes)
    return LayerSchedule(found)


def _random(calibration: Calibration, report: Report) -> list[Candidate]:
    settings = calibration.settings
    found = []
    for keep in settings.keeps:
        report(f"random: keep {keep:g}, {settings.random} tables")
        seeds = range(settings.random * settings.seed, settings.random * (settings.seed + 1))
        tables = [schedules.random_within(calibration.whole, keep=keep, seed=s) for s in seeds]
        tries = [
            Candidate(RANDOM, f"keep {keep:g}", keep, each, calibration.table) for each in tables
        ]
        found.append(calibration.best(tries))
    return found


DEEPCACHE = Series(deepcache.METHOD.name, "DeepCache, best branch", "#1f6f8b", "o", _deepcache)
FORA = Series("fora", "FORA", "#5dade2", "1", _fora)
SMOOTHCACHE = Series("smoothcache", "SmoothCache", "#2874a6", "2", _smoothcache)
RANDOM = Series(
    random_cells.METHOD.name, "random search", "#b7950b", "X", _random, options=("random",)
)
"""The best of random tables on the calibration pictures."""
