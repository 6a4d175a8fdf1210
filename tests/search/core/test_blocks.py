"""Which blocks lie in which, and which are skipped."""

from __future__ import annotations

from search.core.blocks import outermost, skipped
from tests.toys import chain, subnet


def test_what_lies_in_another_goes_with_it() -> None:
    assert outermost(["b.0", "a.1.ff", "a.1", "a.10", "a.1.attn.to_q"]) == ["a.1", "a.10", "b.0"]


def test_blocks_are_skipped_only_where_every_step_skips_them() -> None:
    assert skipped(subnet(chain(), "Rss", "RsR")) == ["b"]
