"""Independent jobs, here in a few processes or on a cluster: results as they come."""

from __future__ import annotations

import enum
import importlib.util
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Job = TypeVar("Job")
    Result = TypeVar("Result")


class Where(enum.StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    """In processes of this machine."""
    RAY = "ray"
    """On the Ray cluster that RAY_ADDRESS names, or a new one on this machine."""
    DASK = "dask"
    """On the Dask cluster that DASK_SCHEDULER_ADDRESS names, or a new one on this machine."""


PACKAGES = {Where.RAY: "ray", Where.DASK: "distributed"}


def require_place(where: Where) -> None:
    """Refuse a place whose package is not installed."""
    if where in PACKAGES and importlib.util.find_spec(PACKAGES[where]) is None:
        msg = (
            f"--parallel {where} needs the package {PACKAGES[where]!r}, which is not installed; install "
            f"stepcarve[{where}], or leave --parallel out"
        )
        raise SearchError(msg)


def require_workers(workers: int) -> None:
    """Refuse a number of workers below 1."""
    if workers < 1:
        msg = f"--jobs is {workers}; give 1 or more"
        raise SearchError(msg)


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: int = 1,
    where: Where = Where.LOCAL,
) -> Iterator[tuple[int, Result]]:
    """Each job's number and result, in the order in which they are done.

    One local worker is this process. More are processes of their own: function, jobs and results are
    pickled, and the files they name must be there under the same paths on every machine. Workers on one
    machine share its cores evenly.

    Args:
        function: of one job; what it raises is raised here.
        jobs: independent of each other.
        workers: how many jobs run at once.
        where: to run them.

    Raises:
        SearchError: fewer than one worker, a place that is not there, or a worker that died.
    """
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    require_workers(workers)
    require_place(where)
    numbered = (joblib.delayed(_numbered)(function, i, job) for i, job in enumerate(jobs))
    with _backend(where, workers):
        pool = joblib.Parallel(
            return_as="generator_unordered", batch_size=1, pre_dispatch="2 * n_jobs"
        )
        try:
            yield from pool(numbered)
        except TerminatedWorkerError as error:
            msg = (
                f"one of {workers} worker processes died, most likely because memory ran out; use fewer "
                "--jobs, with --resume if the command has it"
            )
            raise SearchError(msg) from error


def _numbered(function: Callable[[Job], Result], number: int, job: Job) -> tuple[int, Result]:
    return number, function(job)


@contextmanager
def _backend(where: Where, workers: int) -> Iterator[None]:
    """While open, joblib's jobs run there."""
    import joblib

    with ExitStack() as stack:
        if where is Where.RAY:
            stack.enter_context(_ray(workers))
        elif where is Where.DASK:
            stack.enter_context(_dask_client(workers))
        name = {Where.LOCAL: "loky", Where.RAY: "ray", Where.DASK: "dask"}[where]
        stack.enter_context(joblib.parallel_config(name, n_jobs=workers))
        yield


@contextmanager
def _ray(workers: int) -> Iterator[None]:
    """While open, Ray is there and known to joblib as a backend that hands results on as they come."""
    with ray_cluster({"num_cpus": workers}):
        from joblib.parallel import register_parallel_backend
        from ray.util.joblib.ray_backend import RayBackend

        class Streaming(RayBackend):  # type: ignore[misc]
            """Ray's own inherits a refusal that is meant for joblib's pool of processes."""

            supports_return_generator = True

        register_parallel_backend("ray", Streaming)
        yield


@contextmanager
def ray_cluster(new: dict[str, Any]) -> Iterator[None]:
    """While open, this process is connected to the cluster that RAY_ADDRESS names, or to a new one here.

    Args:
        new: settings of a new cluster, such as `num_cpus`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ours = not ray.is_initialized()
    if ours:
        settings = {} if "RAY_ADDRESS" in os.environ else new
        ray.init(logging_level="ERROR", include_dashboard=False, **settings)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _dask_client(workers: int) -> Any:
    """A client of the cluster that is configured, or of a new one on this machine."""
    import dask
    from distributed import Client

    if dask.config.get("scheduler-address", None):
        return Client()
    return Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
