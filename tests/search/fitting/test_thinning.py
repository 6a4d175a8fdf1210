"""Which blocks are left out, on toys, against all possible choices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.table import keep_of, with_rows
from search.fitting.thinning import CAUTION, thinned
from tests.toys import chain, subnet

CHOICES = (Action.RUN, Action.REUSE, Action.SKIP, Action.FORECAST)
WHOLE = subnet(chain(), *["RRR"] * 4)
SHAPE = (4, 3, 4)
TWO_LESS = keep_of(WHOLE) - 0.155
"""Pays for all but two blocks."""


def drawn(seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    found = random.normal(size=(40, *SHAPE)) * random.uniform(0.1, 1, size=SHAPE)
    found[..., 0] = 0
    return found


def square(effects: NDArray[np.float64], found: SubNet) -> float:
    cells = [
        effects[:, call, block, CHOICES.index(action)]
        for call, row in enumerate(found.actions)
        for block, action in enumerate(row)
    ]
    return float((np.sum(cells, 0) ** 2).sum() + CAUTION * sum((c**2).sum() for c in cells))


def pairs() -> list[SubNet]:
    """Every SubNet with two blocks left out."""
    found = []
    places = list(itertools.product(range(4), range(3)))
    for two in itertools.combinations(places, 2):
        for actions in itertools.product(CHOICES[1:], repeat=2):
            rows = [list(row) for row in WHOLE.actions]
            for (call, block), action in zip(two, actions, strict=True):
                rows[call][block] = action
            try:
                found.append(with_rows(WHOLE, rows))
            except SearchError:
                continue
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_close_to_the_best_there_is(seed: int) -> None:
    effects = drawn(seed)
    found = thinned(WHOLE, TWO_LESS, effects, CHOICES)
    assert found is not None
    assert keep_of(found) <= TWO_LESS
    every = [square(effects, each) for each in pairs() if keep_of(each) <= TWO_LESS]
    assert len(every) > 300
    assert square(effects, found) <= np.quantile(every, 0.01)


@pytest.mark.parametrize("seed", range(4))
def test_the_budget_is_met_with_actions_that_the_cache_allows(seed: int) -> None:
    for keep in (0.9, 0.6, 0.3):
        found = thinned(WHOLE, keep, drawn(seed), CHOICES)
        assert found is not None
        assert keep_of(found) <= keep


@pytest.mark.parametrize("seed", range(4))
def test_the_budget_is_met_in_the_cost_that_counts(seed: int) -> None:
    def seconds(found: SubNet) -> float:
        """A fifth of what is left out is saved, as where caches are large."""
        return (4 + keep_of(found)) / 5

    found = thinned(WHOLE, 0.9, drawn(seed), CHOICES, seconds)
    assert found is not None
    assert seconds(found) <= 0.9
    by_macs = thinned(WHOLE, 0.9, drawn(seed), CHOICES)
    assert by_macs is not None
    assert seconds(by_macs) > 0.9


def test_what_cannot_be_paid_is_none() -> None:
    assert thinned(WHOLE, 1e-4, drawn(0), CHOICES) is None


def test_where_nothing_may_be_left_out_there_is_none() -> None:
    assert thinned(WHOLE, 0.9, drawn(0)[..., :1], (Action.RUN,)) is None


def test_effects_that_undo_each_other_are_chosen_together() -> None:
    effects = np.ones((1, *SHAPE))
    effects[..., 0] = 0
    effects[:, 3, 2, 1] = -1
    found = thinned(WHOLE, TWO_LESS, effects, CHOICES)
    assert found is not None
    assert found.actions[3][2] is Action.REUSE


def test_removed_blocks_stay_as_they_are() -> None:
    whole = subnet(chain(), *["RsR"] * 4)
    found = thinned(whole, keep_of(whole) - 0.07, drawn(0), CHOICES)
    assert found is not None
    assert all(row[1] is Action.SKIP for row in found.actions)
