"""Which steps call when whole steps are reused."""

from __future__ import annotations

import pytest

from search.frontier.spacing import spacings, uniform


def test_uniform_takes_every_nth_step() -> None:
    assert uniform(50, 10) == tuple(range(0, 50, 5))
    assert uniform(8, 3) == (0, 2, 5)


@pytest.mark.parametrize(("total", "count"), [(50, 25), (50, 10), (20, 12), (7, 6)])
def test_spacings_are_distinct_choices_that_begin_at_0(total: int, count: int) -> None:
    found = list(spacings(total, count).values())
    assert found
    assert len({*found, uniform(total, count)}) == len(found) + 1
    for steps in found:
        assert steps[0] == 0
        assert steps[-1] < total
        assert list(steps) == sorted(set(steps))
        assert len(steps) == count


def test_spacings_are_dense_at_either_end() -> None:
    found = spacings(50, 10)
    assert found["power 2.00"][5] < 25 < found["power 0.50"][5]
    assert found["quadratic +0.75"][5] < 25 < found["quadratic -0.75"][5]


def test_there_is_no_other_way_to_call_once_or_always() -> None:
    assert spacings(8, 1) == {}
    assert spacings(8, 8) == {}
