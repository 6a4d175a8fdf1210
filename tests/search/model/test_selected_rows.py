"""Rows that a mask takes, traced at fixed shapes, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search.core.errors import SearchError
from search.model.selected_rows import AllRowsSelected, RowsSelected


class Reordered(nn.Module):
    """Tokens of two texts, those that count first, as HunyuanImage and HunyuanVideo 1.5 do it."""

    def forward(
        self, a: Tensor, seen_a: Tensor, b: Tensor, seen_b: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, masks = [], []
        for x, mx, y, my in zip(a, seen_a, b, seen_b, strict=True):
            rows.append(torch.cat([y[my], x[mx], torch.zeros_like(y[~my]), x[~mx]], dim=0))
            masks.append(torch.cat([my[my], mx[mx], my[~my], mx[~mx]], dim=0))
        return torch.stack(rows), torch.stack(masks)


class Attended(nn.Module):
    """Attention of a picture and the tokens of its text that count, filled up again, as Mochi does it."""

    def forward(self, picture: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        made = []
        for row in range(len(picture)):
            places = torch.nonzero(seen[row][None].flatten(), as_tuple=False).flatten()
            taken = text[row : row + 1, :, places, :]
            whole = torch.cat([picture[row : row + 1], taken], dim=2)
            out = functional.scaled_dot_product_attention(whole, whole, whole, dropout_p=0.0)
            missing = picture.size(2) + text.size(2) - out.size(2)
            made.append(functional.pad(out, (0, 0, 0, missing)))
        return torch.cat(made)


class Taken(nn.Module):
    """Rows, as many as there are."""

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        return torch.stack([x[seen]])


class Traced(nn.Module):
    """A module whose rows are selected."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: Tensor) -> Any:
        with RowsSelected():
            return self.inner(*given)


def exported(module: nn.Module, *given: Tensor) -> Any:
    """Traced with masks that take everything."""
    whole = [torch.ones_like(each) if each.dtype is torch.bool else each for each in given]
    return torch.export.export(Traced(module), tuple(whole), strict=False).module()


def test_rows_that_are_taken_stand_before_the_others() -> None:
    torch.manual_seed(0)
    given = (
        torch.randn(2, 5, 3),
        torch.rand(2, 5) > 0.5,
        torch.randn(2, 4, 3),
        torch.rand(2, 4) > 0.5,
    )
    for found, expected in zip(
        exported(Reordered(), *given)(*given), Reordered()(*given), strict=True
    ):
        assert torch.equal(found, expected)


def test_attention_sees_the_rows_that_are_taken() -> None:
    torch.manual_seed(0)
    given = torch.randn(2, 2, 6, 4), torch.randn(2, 2, 5, 4), torch.rand(2, 5) > 0.5
    torch.testing.assert_close(exported(Attended(), *given)(*given), Attended()(*given))


def test_rows_of_no_fixed_number_are_refused() -> None:
    with pytest.raises(SearchError, match=r"selects rows .* no fixed shape \(stack\)"):
        exported(Taken(), torch.randn(5, 3), torch.ones(5, dtype=torch.bool))


def test_other_indices_are_left_alone() -> None:
    x, seen = (
        torch.arange(6.0).reshape(2, 3),
        torch.tensor([[True, False, True], [False, True, True]]),
    )
    with RowsSelected():
        assert torch.equal(x[1], torch.tensor([3.0, 4.0, 5.0]))
        assert torch.equal(x[seen], torch.tensor([0.0, 2.0, 4.0, 5.0]))


def test_masks_take_all_rows_of_texts_whose_padding_is_known_otherwise() -> None:
    x, seen = torch.arange(6.0).reshape(3, 2), torch.tensor([True, False, True])
    with AllRowsSelected():
        assert torch.equal(x[seen], x)
        assert torch.equal(x[1], torch.tensor([2.0, 3.0]))
        assert torch.equal(x[None][seen[None]], x)
