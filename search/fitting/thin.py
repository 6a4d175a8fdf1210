"""Calls with blocks left out, instead of fewer whole calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.core.table import keep_of
from search.fitting.effects import measure_effects
from search.fitting.gated_calls import CHOICES, GatedPredictor, gates_of
from search.fitting.placed import evaluate
from search.fitting.rows import Calls
from search.fitting.scaled import fitted_sampler, rows_for
from search.fitting.thinning import thinned
from search.supernet.supernet import supernet

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories
    from search.fitting.whole_calls import Refinement
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class Thin:
    """Thin calls.

    Attributes:
        subnet: with its fitted sampler.
        error: of held-out pictures, as in `Placed`.
    """

    subnet: SubNet
    error: float


def thin_calls(
    pipeline: Pipeline,
    whole: SubNet,
    keep: float,
    refinement: Refinement,
    report: Callable[..., None],
    cost: Cost = keep_of,
) -> Thin | None:
    """`whole` with as many blocks left out as `keep` asks for, and rows refined with these; None: out of reach.

    Args:
        pipeline: with its weights loaded.
        whole: placed calls with fitted rows, all in full.
        keep: fraction of the full sampler's cost.
        refinement: of the rows.
        report: called with a message and the completed fraction.
        cost: of a SubNet, as a fraction of the full sampler's.
    """
    fitted_on, held_out = refinement.fitted_on, refinement.held_out
    placed, count = placed_of(whole, held_out), whole.steps
    with supernet(pipeline, whole, choices=CHOICES) as net:
        effects = measure_effects(
            fitted_on,
            net,
            placed,
            seed=refinement.seed,
            report=lambda share: report(f"{count} calls: effects of their blocks", share),
        )
        found = thinned(whole, keep, effects, CHOICES, cost)
        if found is None:
            return None
        gates = gates_of(net, found)
        gated = replace(
            refinement,
            fitted_on=fitted_on.by(GatedPredictor(fitted_on.predictor, net, gates)),
            held_out=held_out.by(GatedPredictor(held_out.predictor, net, gates)),
        )
        best = gated.best(placed_of(found, gated.held_out))
    return Thin(replace(found, fitted=fitted_sampler(fitted_on, best)), best.error)


def placed_of(subnet: SubNet, held_out: Trajectories) -> Placed:
    """The calls and rows of a SubNet, with their error."""
    fitted = subnet.fitted
    assert fitted is not None
    positions = [held_out.position_of(time) for time in subnet.timesteps]
    rows = rows_for(held_out, lambda scale: fitted.at(scale).table)
    return evaluate(held_out, Calls.at_numbers(positions, held_out), rows)
