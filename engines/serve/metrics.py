"""What `/metrics` shows, in the format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from engines.serve.served import Served

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
"""Bounds of the histograms."""


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "stepcarve_requests",
            "Requests for pictures, by their status.",
            ["model", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "stepcarve_request_seconds",
            "From a request to its answer.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._run_seconds = Histogram(
            "stepcarve_run_seconds",
            "Of one run, which makes one or several pictures.",
            ["model", "pictures"],
            buckets=SECONDS,
            registry=registry,
        )
        self._pictures = Counter(
            "stepcarve_pictures", "Pictures made.", ["model"], registry=registry
        )
        self._calls = Counter(
            "stepcarve_calls", "Calls of the denoiser.", ["model"], registry=registry
        )
        self.stopped = Counter(
            "stepcarve_stopped_runs",
            "Runs that were stopped because nobody waited for them.",
            registry=registry,
        )
        self.held = Gauge(
            "stepcarve_held_requests", "Requests that take a place.", registry=registry
        )
        self.waiting = Gauge(
            "stepcarve_waiting_pictures", "Pictures whose run has not begun.", registry=registry
        )

    def count_run(self, served: Served, pictures: int, seconds: float) -> None:
        """Count a finished run."""
        self._run_seconds.labels(served.name, pictures).observe(seconds)
        self._pictures.labels(served.name).inc(pictures)
        self._calls.labels(served.name).inc(len(served.bundle.calls))

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
