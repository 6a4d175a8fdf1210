"""Latents of any number of dimensions: the same numbers in another shape give the same result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from search.fitting.placed import assess
from search.fitting.placement import measure_local_errors, measure_propagation
from search.fitting.refine import Schedule, refine
from search.fitting.rows import Calls, run_chain
from search.fitting.trajectories import Trajectories
from tests.search.fitting.toy import linear_runs

SCHEDULE = Schedule(2, batch=4)
RANKS = [(16, 2), (2, 2, 2, 4)]
"""Packed `[L, C]`, and of a video `[C, F, H, W]`."""


@pytest.mark.parametrize("shape", RANKS, ids=("packed", "video"))
def test_calls_are_placed_alike(shape: tuple[int, ...]) -> None:
    pictures, others = linear_runs(), linear_runs(shape=shape)
    local = measure_local_errors(pictures)
    np.testing.assert_allclose(measure_local_errors(others).error, local.error, rtol=1e-5)
    np.testing.assert_allclose(
        measure_propagation(others, local), measure_propagation(pictures, local), rtol=1e-5
    )


@pytest.mark.parametrize("shape", RANKS, ids=("packed", "video"))
def test_calls_are_refined_alike(shape: tuple[int, ...]) -> None:
    def refined(runs: Trajectories) -> torch.Tensor:
        start = assess(runs, runs, [0, 2, 5])
        # A start that is not the best, so that the refinement is seen.
        found = refine(runs, runs, replace(start, error=1.0), SCHEDULE)
        with torch.no_grad():
            final = run_chain(runs, Calls.at_numbers(found.positions, runs), found.rows)
        assert final.shape == runs.noise.shape
        return final.flatten(1)

    torch.testing.assert_close(refined(linear_runs(shape=shape)), refined(linear_runs()))
