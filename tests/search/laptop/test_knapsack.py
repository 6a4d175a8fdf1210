"""The knapsack: against every possible set of layers, nesting included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from search.core.errors import SearchError
from search.laptop import knapsack
from search.laptop.knapsack import choose


def random_layers(seed: int) -> tuple[list[int], list[float], list[float]]:
    """Eleven layers, some in others: ends, shares, scores."""
    random = np.random.default_rng(seed)
    ends = [4, 3, 3, 4, 5, 9, 7, 8, 9, 10, 11]
    ends[2] = 3
    own = random.random(11)
    shares = np.array([own[i:end].sum() for i, end in enumerate(ends)]) / own.sum()
    return ends, shares.tolist(), random.random(11).tolist()


def every_choice(ends: Sequence[int], start: int = 0) -> list[frozenset[int]]:
    if start == len(ends):
        return [frozenset()]
    taken = [{start} | rest for rest in every_choice(ends, ends[start])]
    return [*map(frozenset, taken), *every_choice(ends, start + 1)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5, 0.2])
def test_no_other_set_is_better(seed: int, keep: float) -> None:
    ends, shares, scores = random_layers(seed)
    removed = {one: sum(shares[i] for i in one) for one in every_choice(ends)}
    enough = [amount for amount in removed.values() if amount >= 1 - keep]
    most = max(1 - keep + knapsack.TOLERANCE, min(enough))
    fitting = [
        sum(scores[i] for i in one) for one, amount in removed.items() if 1 - keep <= amount <= most
    ]
    found = choose(ends, shares, scores, keep=keep)
    assert 1 - keep <= removed[found] <= most
    assert sum(scores[i] for i in found) == pytest.approx(min(fitting))


def test_a_layer_is_not_counted_with_what_lies_in_it() -> None:
    # Alone, 0 is dear; 1 and 2 lie in it and are nearly all of it.
    assert choose([3, 2, 3], [1.0, 0.6, 0.4], [9, 1, 1], keep=0) == {1, 2}
    assert choose([3, 2, 3], [1.0, 0.6, 0.3], [9, 1, 1], keep=0.05) == {0}


def test_what_costs_nothing_stays() -> None:
    assert choose([1, 2], [0.0, 0.5], [-1, 1], keep=0.5) == {1}


@pytest.mark.parametrize("seed", range(4))
def test_scores_may_be_of_any_size(seed: int) -> None:
    """Losses reach from 1e-9 to 1e-1; the solver stops where 1e-6 is left to gain."""
    random = np.random.default_rng(seed)
    ends, shares, _ = random_layers(seed)
    scores = 10 ** random.uniform(-9, -1, 11)
    found = choose(ends, shares, scores.tolist(), keep=0.6)
    removed = {one: sum(shares[i] for i in one) for one in every_choice(ends)}
    most = max(0.4 + knapsack.TOLERANCE, min(a for a in removed.values() if a >= 0.4))
    best = min(scores[list(one)].sum() for one, a in removed.items() if 0.4 <= a <= most)
    assert scores[list(found)].sum() == pytest.approx(best, rel=1e-9)


def test_equal_amounts_in_another_order_are_equal() -> None:
    # 0.1 + 0.2 is not 0.3 in binary; the cheaper one of the two is wanted.
    assert choose([1, 2, 3], [0.3, 0.1, 0.2], [1, 5, 5], keep=0.7) == {0}
    assert choose([1, 2, 3], [0.3, 0.1, 0.2], [1, 0.2, 0.2], keep=0.7) == {1, 2}


def test_layers_too_coarse_for_the_budget_keep_the_nearest_below() -> None:
    assert choose([1, 2, 3], [0.4, 0.3, 0.3], [1, 5, 6], keep=0.5) == {1, 2}


def test_a_budget_beyond_all_layers_is_refused() -> None:
    message = "30.0% of the cost cannot be left out, but --keep is 0.2; raise --keep"
    with pytest.raises(SearchError, match=message):
        choose([1, 2], [0.4, 0.3], [1, 1], keep=0.2)


def test_keeping_everything_removes_nothing() -> None:
    assert choose([1, 2, 3], [0.1] * 3, [1.0] * 3, keep=1) == frozenset()
