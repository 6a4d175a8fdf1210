"""Which prompts a search samples with, and which it is evaluated with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.methods.prompts import default_prompts, split_prompts
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline


@pytest.fixture(scope="module")
def texts(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("shapes-sd"), weights=False)


def apart(
    pipeline: Pipeline, search: tuple[str, ...] = (), evaluate: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return split_prompts(pipeline, search=search, evaluate=evaluate)


def test_texts_are_halved(texts: Pipeline) -> None:
    search, evaluate = apart(texts)
    assert sorted([*search, *evaluate]) == sorted(default_prompts(texts))
    assert not set(search) & set(evaluate)
    assert len(search) == len(evaluate)


def test_texts_that_are_given_are_left_out_of_the_others(texts: Pipeline) -> None:
    known = default_prompts(texts)
    given = tuple(known[:10])
    assert apart(texts, search=given) == (given, tuple(known[10:]))
    assert apart(texts, evaluate=given) == (tuple(known[10:]), given)


def test_all_that_is_given_stays_as_it_is(texts: Pipeline) -> None:
    assert apart(texts, ("a",), ("a", "b")) == (("a",), ("a", "b"))


def test_all_texts_are_judged_if_all_were_searched_with(texts: Pipeline) -> None:
    known = tuple(default_prompts(texts))
    assert apart(texts, search=known) == (known, known)


def test_classes_are_drawn_twice(pipelines: Callable[[str], Path]) -> None:
    pipeline = open_pipeline(pipelines("shapes-dit"), weights=False)
    search, evaluate = apart(pipeline)
    assert search == tuple(default_prompts(pipeline))
    assert search != evaluate
    assert {*search, *evaluate} <= {str(number) for number in range(24)}
