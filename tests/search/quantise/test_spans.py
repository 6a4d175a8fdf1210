"""Spans of steps, each with input ranges of its own."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search.core.quantisation import Quantisation, scheme_named
from search.model.current_step import enter_step
from search.quantise.calibration import calibrate
from search.quantise.layers import WEIGHT
from search.quantise.ranges import Ranges
from search.quantise.rounded import rounded
from search.quantise.spans import split

QUIET, LOUD, STEPS = 3, 5, (0, 2, 3, 5, 7)
"""Inputs are ten times as large from step `LOUD` on; some steps of the SubNet call nothing."""


def test_the_split_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(size=(4, 7, 2)) * rng.uniform(0.1, 3, (1, 7, 1)), axis=-1)
    lows, highs = np.minimum(ends[..., 0], 0), np.maximum(ends[..., 1], 0)
    whole = highs.max(axis=1) - lows.min(axis=1)

    def cost(starts: tuple[int, ...]) -> float:
        spans = zip((0, *starts), (*starts, 7), strict=True)
        widths = [
            (b - a) * ((highs[:, a:b].max(axis=1) - lows[:, a:b].min(axis=1)) / whole) ** 2
            for a, b in spans
        ]
        return float(np.sum(widths))

    for count in (1, 2, 3, 7):
        best = min(combinations(range(1, 7), count - 1), key=cost)
        assert split(lows, highs, count) == best
    assert split(lows, highs, 9) == (1, 2, 3, 4, 5, 6)


def test_a_call_that_leaves_out_a_layer_says_nothing_about_it() -> None:
    lows = np.array([[0.0, np.inf, 0.0, 0.0], [-1.0, -1.0, -1.0, -9.0]])
    highs = np.array([[1.0, -np.inf, 9.0, 9.0], [1.0, 1.0, 1.0, 9.0]])
    assert split(lows, highs, 2) == (2,)
    assert split(lows, highs, 3) == (2, 3)


def calibrated(module: nn.Module, **options: Any) -> Quantisation:
    return calibrate(
        {WEIGHT: module}, [WEIGHT], lambda: run(module), scheme=scheme_named("int8"), **options
    )


def run(module: nn.Module) -> dict[int, torch.Tensor]:
    """What the layer makes at each step."""
    generator, made = torch.Generator().manual_seed(0), {}
    with torch.no_grad():
        for step in STEPS:
            enter_step(step)
            size = 10 if step >= LOUD else 1
            made[step] = module(size * torch.randn(32, 64, generator=generator))
    return made


@pytest.mark.parametrize("ranges", Ranges)
def test_each_span_rounds_to_its_own_range(ranges: Ranges) -> None:
    torch.manual_seed(1)
    module = nn.Linear(64, 64, bias=False)
    one, two = calibrated(module, ranges=ranges), calibrated(module, ranges=ranges, spans=2)
    assert (one.starts, two.starts) == ((), (LOUD,))
    layer = two.layers[WEIGHT]
    quiet, loud = layer.spans
    assert loud[1] - loud[0] > 5 * (quiet[1] - quiet[0])
    assert (layer.low, layer.high) == loud

    whole, errors = run(module), []
    for plan in (one, two):
        with rounded({WEIGHT: module}, plan):
            made = run(module)
        errors.append({step: float((made[step] - whole[step]).norm()) for step in STEPS})
    for step in STEPS:
        if step < LOUD:
            assert errors[1][step] < 0.5 * errors[0][step]
        else:
            assert errors[1][step] == pytest.approx(errors[0][step], rel=0.1)


def test_a_layer_that_a_span_does_not_call_has_a_range_there() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)

    def both() -> None:
        for step, module in enumerate((first, first, second, second)):
            enter_step(step)
            module(torch.full((1, 4), 1.0 + step))

    layers = {"first": first, "second": second}
    plan = calibrate(layers, layers, both, scheme=scheme_named("int8"), spans=4)
    assert plan.starts == (1, 2, 3)
    assert plan.layers["first"].spans == ((1.0, 1.0), (2.0, 2.0), (1.0, 2.0), (1.0, 2.0))
    assert plan.layers["second"].spans == ((3.0, 4.0), (3.0, 4.0), (3.0, 3.0), (4.0, 4.0))
