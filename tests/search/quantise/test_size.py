"""Bytes of weights, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from search.core.quantisation import Layer, Quantisation, scheme_named
from search.quantise.size import stored_bytes, weights_bytes


@pytest.mark.parametrize(
    ("scheme", "shape", "expected"),
    [
        ("int8", (10, 64), 640 + 4 * 10),
        ("fp8", (10, 64, 3, 3), 5760 + 4 * 10),
        ("int4-weights", (10, 64), 320 + 4 * 20),  # a scale per 32 weights
        ("int4-weights", (10, 33), 165 + 4 * 10),  # which do not divide a row
    ],
)
def test_a_layer_has_its_integers_and_its_scales(
    scheme: str, shape: tuple[int, ...], expected: int
) -> None:
    assert stored_bytes(torch.zeros(shape), scheme_named(scheme)) == expected


def test_what_the_plan_leaves_out_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2, bias=False))
    family = SimpleNamespace(component="denoiser")
    pipeline: Any = SimpleNamespace(family=family, networks={"denoiser": network})
    assert weights_bytes(pipeline, None) == 4 * (32 + 4 + 8)
    plan = Quantisation(scheme_named("int8"), {"0.weight": Layer()}, {"1.weight": Layer()})
    assert weights_bytes(pipeline, plan) == (32 + 4 * 4) + 4 * (4 + 8)
    every = Quantisation.of_weights(scheme_named("int8-weights"))
    assert weights_bytes(pipeline, every) == (32 + 4 * 4) + (8 + 4 * 2) + 4 * 4
