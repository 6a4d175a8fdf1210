"""Texts of the command line."""

from __future__ import annotations

import pytest

from search.core.errors import SearchError
from search.methods.options import assignment_of, names_of


def test_names_in_a_list_come_once_each() -> None:
    assert names_of("a, b,,a ", "abc") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "nothing is named; choose from a, b"),
        ("a,x", "'x' is not one of the choices; choose from"),
    ],
)
def test_names_that_are_not_there_are_refused(text: str, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        names_of(text, "ab")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("clip_sample=false", ("clip_sample", False)),
        ("beta_end=0.02", ("beta_end", 0.02)),
        ("timestep_spacing=trailing", ("timestep_spacing", "trailing")),
        ("thresholding=null", ("thresholding", None)),
    ],
)
def test_a_setting_is_a_name_and_a_value(text: str, found: tuple[str, object]) -> None:
    assert assignment_of(text) == found


@pytest.mark.parametrize("text", ["clip_sample", "=1", "a b=1", "x="])
def test_a_setting_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(SearchError, match="is not NAME=VALUE"):
        assignment_of(text)
