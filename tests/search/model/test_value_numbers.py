"""Numbers of values: equal for what is computed alike, other ones for everything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from search.model.value_numbers import ValueNumbers

SAMPLE = torch.ones(2, 3)


def numbered(compute: Callable[[Tensor], Tensor], values: ValueNumbers) -> int:
    """The number of what is computed from a sample of its own."""
    with values:
        sample = SAMPLE.clone()
        values.mark_input(sample, "sample", 0)
        return values.number(compute(sample)).value


def zeros_but_for(value: float) -> Callable[[Tensor], Tensor]:
    def compute(sample: Tensor) -> Tensor:
        made = torch.zeros(2, 4)
        made[:, :3] = sample * value
        return made + 1

    return compute


SAME = (
    (lambda s: s * 2 + 1, lambda s: s * 2 + 1),
    (lambda s: s + torch.ones(3), lambda s: s + torch.full((3,), 1.0)),
    (lambda s: s + torch.arange(3.0)[1:2], lambda s: s + torch.ones(2)[1:]),
    (zeros_but_for(2.0), zeros_but_for(2.0)),
)
OTHER = (
    (lambda s: s * 2, lambda s: s * 3),
    (lambda s: s + torch.ones(3), lambda s: s + torch.zeros(3)),
    (lambda s: s[0], lambda s: s[1]),
    (lambda s: s, lambda s: s.clone().mul_(1.0)),
    (zeros_but_for(2.0), zeros_but_for(3.0)),
    (lambda s: s, lambda _: torch.ones(2, 3)),
)


@pytest.mark.parametrize(("one", "other"), SAME, ids=range(len(SAME)))
def test_what_is_computed_alike_has_one_number(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]
) -> None:
    values = ValueNumbers(lambda _: None)
    assert numbered(one, values) == numbered(other, values)


@pytest.mark.parametrize(("one", "other"), OTHER, ids=range(len(OTHER)))
def test_what_is_computed_otherwise_has_another(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]
) -> None:
    values = ValueNumbers(lambda _: None)
    assert numbered(one, values) != numbered(other, values)


def test_a_number_knows_the_steps_whose_inputs_are_in_it() -> None:
    values = ValueNumbers(lambda _: None)
    with values:
        first, second = SAMPLE.clone(), SAMPLE.clone()
        values.mark_input(first, "sample", 0)
        values.mark_input(second, "sample", 1)
        assert values.number(second * 2).steps == {1}
        assert values.number(first + second).steps == {0, 1}
        assert values.number(first * 2).value == values.number(second * 2).value


def test_nothing_is_numbered_in_a_pause() -> None:
    values = ValueNumbers(lambda _: None)
    with values:
        sample = SAMPLE.clone()
        values.mark_input(sample, "sample", 0)
        values.pause()
        made = sample * 2
        values.resume()
        assert values.number(made).steps == set()
