"""Normal equations from finite differences, against autograd's Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from search.core.actions import Action
from search.core.sampler import ScaleRange
from search.fitting.gated_calls import CHOICES, GatedPredictor, gates_of
from search.fitting.jacobian import normal_equations
from search.fitting.moves import NEWEST, Moves
from search.fitting.placed import evaluate
from search.fitting.rows import Calls, State, fit_chain, run_chain
from search.fitting.thin import placed_of
from search.fitting.trajectories import Trajectories
from search.supernet.supernet import supernet
from tests.search.fitting.test_gated_calls import drawn, setting
from tests.search.fitting.toy import guided_runs, linear_runs

SCALES = ScaleRange(1.0, 5.0, 3.0)
RUNS = {
    "one-call": lambda: linear_runs(steps=12),
    "several-calls": lambda: guided_runs((3.0,), rounds=2, size=12, steps=12),
    "several-scales": lambda: guided_runs(SCALES.fitted_at, SCALES, steps=12),
}


@pytest.mark.parametrize("name", RUNS)
def test_they_are_those_of_autograds_jacobian(name: str) -> None:
    runs = RUNS[name]()
    calls = Calls.at_numbers([0, 2, 5, 8, 10, 11], runs)
    moves = Moves.of(evaluate(runs, calls, fit_chain(runs, calls).rows), runs)
    found = normal_equations(runs, moves, torch.ones_like, 1e-3)
    matrix, vector = _expected(runs, moves)
    assert moves.size == 6 + runs.scale_count * (2 + 3 + 4 + 5 + 6 + NEWEST)
    assert float((found.matrix - matrix).norm() / matrix.norm()) < 0.01
    assert float((found.vector - vector).norm() / vector.norm()) < 0.01
    assert float(matrix.diag()[-6]) == 0, "the first call stays"
    assert float(found.step(1e-3)[-6]) == 0


def _expected(runs: Trajectories, moves: Moves) -> tuple[Tensor, Tensor]:
    """The normal equations by differentiating a whole run."""
    norms = runs.final.flatten(1).norm(dim=1)[:, None]

    def left(step: Tensor) -> Tensor:
        parts = torch.split(step.float(), [*moves.free, len(moves.room)])
        calls = Calls.at(list(moves.places + moves.room * parts[-1]))
        pairs = zip(moves.rows, parts[:-1], strict=True)
        final = run_chain(runs, calls, [row + part for row, part in pairs])
        return ((final - runs.final).flatten(1) / norms).flatten().double()

    zero = torch.zeros(moves.size, dtype=torch.float64)
    columns: Tensor = torch.autograd.functional.jacobian(left, zero)  # type: ignore[no-untyped-call]
    return columns.T @ columns, columns.T @ left(zero)


def test_pictures_weigh_as_they_are_told() -> None:
    runs = linear_runs(pictures=4)
    calls = Calls.at_numbers([0, 3], runs)
    moves = Moves.of(evaluate(runs, calls, fit_chain(runs, calls).rows), runs)
    weights = torch.tensor([0.0, 0.0, 4.0, 0.0])
    found = normal_equations(runs, moves, lambda _: weights, 1e-3)
    third = replace(runs, noise=runs.noise[2:3], final=runs.final[2:3])
    alone = normal_equations(third, moves, torch.ones_like, 1e-3)
    torch.testing.assert_close(found.matrix, 4 * alone.matrix, rtol=1e-3, atol=1e-6)


def test_damping_shortens_a_step() -> None:
    runs = linear_runs()
    calls = Calls.at_numbers([0, 3], runs)
    moves = Moves.of(evaluate(runs, calls, fit_chain(runs, calls).rows), runs)
    found = normal_equations(runs, moves, torch.ones_like, 1e-3)
    lengths = [float(found.step(damping).norm()) for damping in (1e-3, 1.0, 1e3)]
    assert lengths == sorted(lengths, reverse=True)
    assert 0 < lengths[-1] < 0.01 * lengths[0]


def test_gated_calls_go_on_from_any_of_them(pipelines: Callable[[str], Path]) -> None:
    """What they hand on to each other is a part of the state, which later runs do not spoil."""
    pipeline, whole, runs = setting(pipelines("three-levels"), 2)
    placed, thin = placed_of(whole, runs), drawn(whole, 0)
    assert any(action is not Action.RUN for action in thin.actions[-1])
    with supernet(pipeline, whole, choices=CHOICES) as net, torch.no_grad():
        gated = runs.by(GatedPredictor(runs.predictor, net, gates_of(net, thin)))
        calls = Calls.at_numbers(placed.positions, runs)
        expected = run_chain(gated, calls, placed.rows)
        state, states = State.first(gated), []
        while state.number < len(placed.rows):
            states.append(state)
            after, features = state.called(gated, calls)
            row = placed.rows[state.number]
            state = replace(after, sample=sum(a * b for a, b in zip(row, features, strict=False)))
        for each in reversed([*states, *states]):
            again = run_chain(gated, calls, placed.rows, each)
            torch.testing.assert_close(again, expected)
