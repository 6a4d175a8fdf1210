"""Recipes, and which blocks a SubNet takes out."""

from __future__ import annotations

from typing import Any

import pytest

from search.core.errors import SearchError
from search.distill.recipe import DistillRecipe
from search.distill.skipped import skipped_blocks
from tests.toys import chain, subnet


def test_blocks_that_every_step_skips_are_taken_out() -> None:
    assert skipped_blocks(subnet(chain(), "RsR", "RsR")) == ["b"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("RRR", "RRR"), "skips no block, so no layer can be removed"),
        (("RRR", "RsR"), r"changes \['b'\] between steps"),
        (("RsR", "RsR", "Rsc"), "has REUSE, but only blocks that every step skips"),
    ],
)
def test_other_subnets_are_refused(rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        skipped_blocks(subnet(chain(), *rows))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "--iterations is 0; give 1 or more"),
        ({"save_every": 0}, "--save-every is 0"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0; give a number above 0"),
        ({"minutes": -1.0}, "--minutes is -1.0"),
        ({"drop": 2.0}, "--drop is 2.0; give a number from 0 to 1"),
        ({"ema": float("nan")}, "--ema is nan; give a number from 0 to 1"),
        ({"task_weight": -1.0}, "--task-weight is -1.0; give 0 or more"),
        ({"seed": -1}, "--seed is -1"),
        ({"dtype": "float8"}, "unknown dtype 'float8'; choose one of float32, float16, bfloat16"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; choose one of no, fp16, bf16"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        DistillRecipe(**wrong)
