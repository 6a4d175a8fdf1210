"""Weights that are cast as they are used."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engines.parity.casting import CastTensor, cast_weights


class Mixed(nn.Module):
    """Layers whose weights are used in many ways: as a table, by a convolution, tied, and by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.tied = nn.Linear(8, 5, bias=False)
        self.tied.weight = self.table.weight
        self.scale = nn.Parameter(torch.randn(5))
        self.register_buffer("shift", torch.randn(5))
        self.register_buffer("order", torch.tensor([4, 0, 3, 1, 2]))
        self.register_buffer("nothing", None)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.convolution(self.table(numbers).mT)).mT
        scaled = self.tied(hidden) * (self.scale + 1).tanh() + self.shift
        return scaled[..., self.order].to(self.scale.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_module_computes_what_a_converted_copy_does(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, numbers = Mixed(), torch.tensor([[0, 3, 2, 4]])
    plain = module(numbers)
    expected = copy.deepcopy(module).to(dtype)(numbers)
    with cast_weights(module.modules(), dtype):
        found = module(numbers)
        assert {each.dtype for each in module.parameters()} == {dtype}
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=8 * torch.finfo(dtype).eps, atol=1e-14)
    assert not torch.equal(found.double(), plain.double())
    assert torch.equal(module(numbers), plain), "the weights are as they were"


def test_weights_are_put_back_after_an_error() -> None:
    module = Mixed()
    before = list(module.parameters())

    def stop() -> None:
        with cast_weights(module.modules(), torch.float64):
            raise KeyError

    with pytest.raises(KeyError):
        stop()
    assert all(one is other for one, other in zip(before, module.parameters(), strict=True))


def test_a_cast_tensor_has_no_storage_of_its_own() -> None:
    stored = torch.ones(1000, dtype=torch.float32)
    cast = CastTensor(stored, torch.float64)
    assert cast.dtype == torch.float64
    assert cast.stored is stored
    assert type(cast + 1) is torch.Tensor
