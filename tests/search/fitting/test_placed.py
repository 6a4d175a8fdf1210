"""How good placed calls are."""

from __future__ import annotations

import math

import pytest
import torch

from search.fitting.placed import evaluate, overall, robust_weights
from search.fitting.rows import Calls
from tests.search.fitting.toy import linear_runs


def test_pictures_that_went_astray_weigh_less() -> None:
    weights = robust_weights(torch.tensor([0.1, 0.1, 2.0]))
    assert weights.tolist() == pytest.approx([0.5, 0.5, 1 / 21])


def test_what_is_not_finite_is_worse_than_anything() -> None:
    runs = linear_runs()
    rows = (torch.tensor([1.0, float("nan")]),)
    assert evaluate(runs, Calls.at_numbers((0.0,), runs), rows).error == math.inf


def test_one_picture_astray_counts_less_than_in_a_mean() -> None:
    errors = torch.tensor([0.01, 0.01, 1.0])
    assert overall(errors) == pytest.approx(0.16)
    assert overall(errors) < errors.mean()
    assert overall(errors[:2]) == pytest.approx(0.01)
