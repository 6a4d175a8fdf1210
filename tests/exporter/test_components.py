"""Text encoders that ask a mask for its values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from exporter.components import _exported
from exporter.errors import ExportError

ONES = (torch.ones(1, 4), torch.ones(1, 4, dtype=torch.int64))
SHORT = (torch.rand(1, 4), torch.tensor([[1, 1, 0, 0]]))
OTHER = (torch.rand(1, 4), torch.tensor([[1, 0, 0, 0]]))


def asking(body: str) -> torch.nn.Module:
    """A module whose code lies in diffusers, as far as anyone can see."""
    code = f"def forward(self, values, mask):\n    {body}\n"
    found: dict[str, Any] = {}
    exec(compile(code, "/diffusers/made.py", "exec"), found)  # noqa: S102
    return type("Asking", (torch.nn.Module,), {"forward": found["forward"]})()


def test_the_way_of_a_shorter_text_is_taken_where_it_is_right_for_both() -> None:
    module = asking("return values if mask.all() else values * mask")
    program = _exported(module, (ONES, SHORT)).module()
    for example in (ONES, SHORT, OTHER):
        assert torch.equal(program(*example), module(*example))


def test_what_is_right_for_one_length_alone_is_refused() -> None:
    module = asking("return values * int(mask.sum())")
    with pytest.raises(ExportError, match="follow another path for other text lengths"):
        _exported(module, (ONES, SHORT))


def test_a_mask_that_a_full_text_has_not_is_given_for_both() -> None:
    module = asking("return {'v': values} if mask.all() else {'v': values, 'm': mask.bool()}")
    program = _exported(module, (SHORT, ONES)).module()
    for example in (ONES, SHORT, OTHER):
        assert torch.equal(program(*example)["m"], example[1].bool())


def test_what_a_full_text_has_not_and_is_no_mask_of_all_is_refused() -> None:
    module = asking("return {'v': values} if mask.all() else {'v': values, 'm': mask < 1}")
    with pytest.raises(ExportError, match="follow another path for other text lengths"):
        _exported(module, (SHORT, ONES))
