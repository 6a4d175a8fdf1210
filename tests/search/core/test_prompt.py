"""Class numbers from what people type."""

from __future__ import annotations

import pytest

from search.core.errors import SearchError
from search.core.prompt import class_number

LABELS = {"red circle": 0, "cyan triangle": 23}


def test_a_class_is_given_by_name_or_by_number() -> None:
    assert class_number("cyan triangle", LABELS, 1000) == 23
    assert class_number("23", LABELS, 1000) == 23
    assert class_number("999", {}, 1000) == 999


def test_where_classes_have_names_only_their_numbers_count() -> None:
    with pytest.raises(
        SearchError, match="no class '500'; give a number from 0 to 23 or one of cyan"
    ):
        class_number("500", LABELS, 1000)


def test_where_no_class_has_a_name_any_below_their_count_will_do() -> None:
    with pytest.raises(SearchError, match=r"no class '1000'; give a number from 0 to 999$"):
        class_number("1000", {}, 1000)
