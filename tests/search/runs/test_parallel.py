"""Independent jobs on workers: all results, as they come, and one sentence where that cannot be."""

from __future__ import annotations

import os
import time

import pytest

from search.core.errors import SearchError
from search.runs import parallel
from search.runs.parallel import Where, require_place, run_jobs


def squared(number: int) -> tuple[int, int]:
    if number < 0:
        msg = f"{number} is below 0"
        raise SearchError(msg)
    return number * number, os.getpid()


def slow_first(number: int) -> int:
    time.sleep(1 if number == 0 else 0)
    return number


def dies(number: int) -> None:
    del number
    os._exit(1)


def test_one_worker_is_this_process() -> None:
    assert dict(run_jobs(squared, [3, 4])) == {0: (9, os.getpid()), 1: (16, os.getpid())}


def test_more_workers_are_other_processes() -> None:
    found = dict(run_jobs(squared, range(4), workers=2))
    assert [found[i][0] for i in range(4)] == [0, 1, 4, 9]
    assert os.getpid() not in {process for _, process in found.values()}


def test_results_come_when_they_are_done() -> None:
    assert [result for _, result in run_jobs(slow_first, range(3), workers=2)][-1] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_is_raised_here(workers: int) -> None:
    with pytest.raises(SearchError, match="-1 is below 0"):
        list(run_jobs(squared, [1, -1], workers=workers))


def test_a_worker_that_dies_is_one_sentence() -> None:
    with pytest.raises(SearchError, match="one of 2 worker processes died"):
        list(run_jobs(dies, range(2), workers=2))


def test_no_workers_are_refused() -> None:
    with pytest.raises(SearchError, match="--jobs is 0; give 1 or more"):
        list(run_jobs(squared, [1], workers=0))


def test_a_place_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        SearchError, match=r"'ray', which is not installed; install stepcarve\[ray\]"
    ):
        require_place(Where.RAY)


@pytest.mark.slow
@pytest.mark.parametrize("where", [Where.RAY, Where.DASK])
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_results(where: Where) -> None:
    found = dict(run_jobs(squared, range(4), workers=2, where=where))
    assert [found[i][0] for i in range(4)] == [0, 1, 4, 9]
    assert os.getpid() not in {process for _, process in found.values()}
