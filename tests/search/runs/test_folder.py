"""Directories of searches: what is gone on with, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.core.errors import SearchError
from search.runs.folder import claim, differing, whole_lines

SEARCH = {"schema": 1, "seed": 0, "prompts": ("a cross",)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run" / "search.json"


def test_a_search_that_was_begun_is_gone_on_with(file: Path) -> None:
    claim(file, SEARCH, results="*.done", resume=True)
    (file.parent / "first.done").touch()
    claim(file, SEARCH, results="*.done", resume=True)
    assert json.loads(file.read_text()) == {"schema": 1, "seed": 0, "prompts": ["a cross"]}


def test_a_search_is_not_begun_where_one_is(file: Path) -> None:
    claim(file, SEARCH, results="*.done", resume=False)
    with pytest.raises(SearchError, match="holds a search already; give --resume to continue"):
        claim(file, SEARCH, results="*.done", resume=False)


@pytest.mark.parametrize("resume", [False, True])
def test_results_of_an_unknown_search_are_refused(tmp_path: Path, *, resume: bool) -> None:
    (tmp_path / "first.done").touch()
    with pytest.raises(SearchError, match=r"has first\.done of an unknown search; give another"):
        claim(tmp_path / "search.json", SEARCH, results="*.done", resume=resume)


def test_another_search_is_refused_by_what_differs(file: Path) -> None:
    claim(file, {**SEARCH, "older": 1}, results="*.done", resume=False)
    with pytest.raises(
        SearchError, match="holds a search that differs in older, seed; give another"
    ):
        claim(file, {**SEARCH, "seed": 1}, results="*.done", resume=True)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xff"])
def test_a_garbled_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "search.json").write_bytes(content)
    with pytest.raises(SearchError, match=r"search\.json' is not JSON"):
        claim(tmp_path / "search.json", SEARCH, results="*.done", resume=True)


def test_what_is_not_an_object_differs_in_everything() -> None:
    assert differing(SEARCH, [1]) == ["prompts", "schema", "seed"]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    assert whole_lines(file) == []
    file.write_bytes(b"1\n2\n3")
    assert whole_lines(file) == [b"1\n", b"2\n"]
