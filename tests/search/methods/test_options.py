"""Texts of the command line."""

from __future__ import annotations

import pytest

from search.core.errors import SearchError
from search.frontier.settings import methods_of
from search.methods.options import names_of


def test_names_in_a_list_come_once_each() -> None:
    assert names_of("a, b,,a ") == ("a", "b")
    assert names_of(" , ") == ()


def test_a_frontier_of_no_methods_is_refused() -> None:
    with pytest.raises(SearchError, match="no methods are named"):
        methods_of(",")
