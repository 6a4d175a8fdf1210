"""What counts as the products of attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search.model.cost import attention_products, count_macs

TOKENS, WIDTH = 5, 8


class Attention(nn.Module):
    """Attention with projections, its products as one operation or as two."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.fused:
            return functional.scaled_dot_product_attention(query, key, value)
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value


@pytest.mark.parametrize("fused", [True, False])
def test_products_are_apart_from_projections(fused: bool) -> None:
    example = torch.zeros(1, 2, TOKENS, WIDTH)
    program = torch.export.export(Attention(fused=fused), (example,))
    macs, products = count_macs(program.graph_module), attention_products(program)
    assert sum(macs[node] for node in products) == 2 * 2 * TOKENS * TOKENS * WIDTH
    assert sum(macs.values()) - sum(macs[n] for n in products) == 3 * 2 * TOKENS * WIDTH * WIDTH
