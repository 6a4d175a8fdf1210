"""Memory of what a traced step computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from search.model.activations import peak_bytes


class Chain(nn.Module):
    """Of 250 numbers, 1000 bytes."""

    def __init__(self, *, keeps_first: bool) -> None:
        super().__init__()
        self.keeps_first = keeps_first

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = x + 1
        second = first.view(2, 125) * 2
        both = torch.cat([second, second])
        return (both.sum(0), first) if self.keeps_first else (both.sum(0),)


@pytest.mark.parametrize(
    ("keeps_first", "expected"),
    [(False, 1000 + 2000), (True, 1000 + 1000 + 2000)],
    ids=["first ends where its view is read", "first is an output"],
)
def test_what_lives_at_once(keeps_first: bool, expected: int) -> None:
    module = Chain(keeps_first=keeps_first)
    assert peak_bytes(torch.export.export(module, (torch.zeros(250),))) == expected
