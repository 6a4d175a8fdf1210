"""The run folder of our recipe: what a resumed search finds again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.core.errors import SearchError
from search.fitting.records import CarveRun


@pytest.fixture
def broken(tmp_path: Path) -> CarveRun:
    """Of a search that was stopped in the second number of calls."""
    run = CarveRun(tmp_path, {"seed": 0})
    run.start(resume=False)
    run.log("calls-2", 1, 0.5)
    run.log("calls-2", 2, 0.25)
    (tmp_path / "calls-2.json").touch()
    run.log("calls-5", 1, 0.75)
    return run


def test_finished_counts_are_kept_and_broken_ones_begin_again(broken: CarveRun) -> None:
    again = CarveRun(broken.path, broken.identity)
    again.start(resume=True)
    assert again.errors == {"calls-2": [0.5, 0.25]}
    again.log("calls-5", 1, 0.125)
    lines = [json.loads(line) for line in (broken.path / "log.jsonl").read_text().splitlines()]
    assert [(line["part"], line["iteration"]) for line in lines] == [
        ("calls-2", 1),
        ("calls-2", 2),
        ("calls-5", 1),
    ]
    assert again.errors == {"calls-2": [0.5, 0.25], "calls-5": [0.125]}


def test_finished_counts_are_not_lost_for_want_of_an_option(broken: CarveRun) -> None:
    with pytest.raises(SearchError, match="holds a search already; give --resume"):
        CarveRun(broken.path, broken.identity).start(resume=False)
    assert (broken.path / "calls-2.json").exists()


def test_the_file_says_what_it_is(broken: CarveRun) -> None:
    file = broken.path / "search.json"
    content = json.loads(file.read_text())
    assert content == {"schema": 1, "kind": "stepcarve-search-run", "seed": 0}
    file.write_text(json.dumps({**content, "schema": 0}))
    with pytest.raises(SearchError, match="holds a search that differs in schema; give another"):
        broken.start(resume=True)


@pytest.mark.parametrize(
    "line", ["7", '{"part": "calls-2"}', '{"part": "calls-2", "error": "much"}']
)
def test_a_garbled_log_is_refused(broken: CarveRun, line: str) -> None:
    (broken.path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(SearchError, match=r"log\.jsonl' has a line that is wrong or incomplete"):
        broken.start(resume=True)
