"""The queue of requests, and the threads that make their pictures, equal requests in one run."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engines.batches import filled
from engines.errors import EngineError
from engines.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from engines.runner import Result
    from engines.serve.metrics import Metrics
    from engines.serve.served import Asked, Runs

logger = logging.getLogger(__name__)


class _StoppedError(Exception):
    """Ends a run that nobody waits for."""


@dataclass(eq=False)
class Job:
    """A request in the queue.

    Attributes:
        asked: what to make.
        on_preview: called with each preview, from the thread of the queue.
        on_done: called once when all is made or nothing will be, from that thread or from `close`.
        images: by the number of the picture.
        seconds: that its last run took, by part.
        error: why nothing was made.
        is_started: whether a run has begun.
        is_gone: whether nobody waits for it.
    """

    asked: Asked
    on_preview: Callable[[NDArray[np.uint8]], None]
    on_done: Callable[[], None]
    images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    error: EngineError | None = None
    is_started: bool = False
    is_gone: bool = False


@dataclass(frozen=True)
class _Picture:
    """One picture of a job."""

    job: Job
    number: int

    @property
    def seed(self) -> int:
        """Of its noises."""
        return self.job.asked.seeds[self.number]


class RequestQueue:
    """Holds a limited number of requests and answers them in turn."""

    def __init__(self, places: int, metrics: Metrics, workers: int = 1) -> None:
        """Start to answer.

        Args:
            places: how many requests are held at once.
            metrics: of the server.
            workers: how many runs are made at once, each on a thread; runners must allow it.
        """
        self._places, self._metrics = places, metrics
        self._jobs: set[Job] = set()
        self._waiting: deque[_Picture] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._per_picture = 1.0
        self._threads = [
            threading.Thread(target=self._work, name=f"stepcarve-serve-{number}", daemon=True)
            for number in range(workers)
        ]
        metrics.held.set_function(lambda: len(self._jobs))
        metrics.waiting.set_function(lambda: len(self._waiting))
        for thread in self._threads:
            thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it answers requests."""
        return all(thread.is_alive() for thread in self._threads) and not self._is_closed

    def enter(self, job: Job) -> None:
        """Take a place.

        Raises:
            RequestError: there is none, or the server stops.
        """
        with self._changed:
            if self._is_closed:
                raise _closing()
            if len(self._jobs) >= self._places:
                seconds = max(1, math.ceil(self._per_picture * (1 + len(self._waiting))))
                msg = (
                    f"all {self._places} places are taken; send the request again after {seconds} s, as "
                    "Retry-After says"
                )
                raise RequestError(429, msg, code="queue_full", retry_after=seconds)
            self._jobs.add(job)
            pictures = range(len(job.asked.seeds))
            self._waiting.extend(_Picture(job, number) for number in pictures)
            self._changed.notify_all()

    def leave(self, job: Job) -> None:
        """Free the place of a job; if it is running, its run stops after the present call."""
        with self._changed:
            job.is_gone = True
            self._jobs.discard(job)
            self._waiting = deque(each for each in self._waiting if each.job is not job)

    def close(self) -> None:
        """Refuse all jobs that have not begun; those that have are finished."""
        with self._changed:
            self._is_closed = True
            refused = {each.job for each in self._waiting if not each.job.is_started}
            self._waiting = deque(each for each in self._waiting if each.job not in refused)
            self._changed.notify_all()
        for job in refused:
            self._finish(job, _closing())

    def join(self) -> None:
        """Wait until everything that has begun is finished; after `close`."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next():
            pictures, runner = batch
            began = time.perf_counter()
            try:
                result = self._run(runner, pictures)
            except _StoppedError:
                self._metrics.stopped.inc()
            except EngineError as error:
                self._fail(pictures, error)
            except Exception as error:
                logger.exception("a run has failed")
                self._fail(pictures, EngineError(f"{type(error).__name__}: {error}"))
            else:
                spent = time.perf_counter() - began
                each = spent / len(pictures) / len(self._threads)
                self._per_picture = 0.8 * self._per_picture + 0.2 * each
                self._hand_out(pictures, result, spent)

    def _next(self) -> tuple[list[_Picture], Runs] | None:
        """The pictures of the next run and what makes them; None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return None
            asked = self._waiting[0].job.asked
            equal = [each for each in self._waiting if each.job.asked.shared == asked.shared]
            runner = asked.served.runner_for(asked.size, len(equal))
            taken = equal[: runner.bundle.shape.images]
            self._waiting = deque(each for each in self._waiting if each not in taken)
            for each in taken:
                each.job.is_started = True
            return taken, runner

    def _run(self, runner: Runs, pictures: list[_Picture]) -> Result:
        """One run. A batch that is not full makes pictures of further seeds, which nobody gets."""
        asked, calls = pictures[0].job.asked, len(runner.bundle.calls)
        shown = {
            round((number + 1) * calls / (each.job.asked.previews + 1)) - 1
            for each in pictures
            for number in range(each.job.asked.previews)
        }

        def look(call: int, *_: object) -> None:
            if all(each.job.is_gone for each in pictures):
                raise _StoppedError
            if call in shown and (previews := runner.preview(call)) is not None:
                for place, each in enumerate(pictures):
                    if each.job.asked.previews:
                        each.job.on_preview(previews[place])

        return runner.run(
            asked.prompt,
            seed=filled([each.seed for each in pictures], runner.bundle.shape.images),
            negative=asked.negative,
            guidance=asked.guidance,
            on_call=look if runner.on_host or shown else None,
        )

    def _hand_out(self, pictures: list[_Picture], result: Result, spent: float) -> None:
        self._metrics.count_run(pictures[0].job.asked.served, len(pictures), spent)
        for place, each in enumerate(pictures):
            job = each.job
            with self._changed:  # another thread may hand out the other pictures of the job
                job.images[each.number] = result.images[place].copy()
                job.seconds = result.seconds
                is_done = len(job.images) == len(job.asked.seeds)
            if is_done:
                self._finish(job, None)

    def _fail(self, pictures: list[_Picture], error: EngineError) -> None:
        for job in {each.job for each in pictures}:
            with self._changed:
                self._waiting = deque(each for each in self._waiting if each.job is not job)
                if job.error is not None:
                    continue  # another picture of it has failed before
                job.error = error
            self._finish(job, error)

    def _finish(self, job: Job, error: EngineError | None) -> None:
        """Tell who waits for a job, which keeps its place until then."""
        job.error = error
        if not job.is_gone:
            job.on_done()


def _closing() -> RequestError:
    msg = (
        "the server is shutting down; send the request again in a few seconds, or to another server"
    )
    return RequestError(503, msg, code="stopping", retry_after=5)
