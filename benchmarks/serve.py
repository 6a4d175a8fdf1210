"""`stepcarve serve` under load: `python -m benchmarks.serve BUNDLE`.

The server is a process of its own; this one is its client. First come bare runs (`Runner`) and requests
of one picture in turns, so that both meet the same load of the machine; then many requests at once, a
tenth of which are cancelled or malformed.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import psutil

from benchmarks.record import write
from engines.base import make_engine
from engines.runner import Runner
from exporter.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTE = "/v1/images/generations"
CLIENTS = 8
"""Requests at once, in the test of many."""
PLACES = 16
BLOCK = 4
"""Pictures of each kind before the other kind has its turn."""
SPARE = 2
"""Requests at once in the comparison: while one is answered, the next runs."""
TEXTS = 4
"""Prompts of these requests; equal ones share a run."""
MALFORMED = ("{", "{}", '{"prompt": "x", "size": "7x7"}', '{"prompt": "x", "n": 99}')


class Served:
    """A server process and its address."""

    def __init__(self, process: subprocess.Popen[str], place: str) -> None:
        self.process, self.place = process, place

    def ask(self, body: str) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        return self._send("POST", ROUTE, body)

    def metric(self, name: str) -> float:
        """Summed over its labels."""
        text = self._send("GET", "/metrics")[1].decode()
        found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def state(self) -> dict[str, float]:
        """What must not grow."""
        process = psutil.Process(self.process.pid)
        return {
            "resident_mib": process.memory_info().rss / 2**20,
            "threads": process.num_threads(),
            "open_files": process.num_fds(),
        }

    def cancel(self, body: str, after: float) -> None:
        """Send a request and close the connection before its answer."""
        host, port = self.place.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {ROUTE} HTTP/1.1\r\nHost: {self.place}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            time.sleep(after)

    def _send(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.place, timeout=600)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def serving(bundle: Path) -> Iterator[Served]:
    """`stepcarve serve` until the block ends."""
    command = [sys.executable, "-m", "cli", "serve", str(bundle), "--port", "0", "--json"]
    command += ["--places", str(PLACES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = json.loads(process.stdout.readline())["address"]
            yield Served(process, address.removeprefix("http://"))
        finally:
            process.terminate()
            assert process.wait(60) == 0, "a graceful end"


def body_of(prompt: str, seed: int) -> str:
    """A request of one picture."""
    return json.dumps({"prompt": prompt, "seed": seed})


def throughput(
    served: Served, runner: Runner, prompts: Iterator[str], blocks: int
) -> dict[str, Any]:
    """Pictures per second of bare runs and of requests, in turns; every request has another prompt."""
    rates: dict[str, list[float]] = {"bare_run": [], "served": []}
    seeds = itertools.count()

    def ask(prompt: str) -> None:
        status, _ = served.ask(body_of(prompt, next(seeds)))
        assert status == 200

    cpu: dict[str, float] = {"bare_run": 0.0, "served": 0.0}
    own, other = psutil.Process(), psutil.Process(served.process.pid)
    for block in range(blocks + 1):
        spent, began = cpu_of(own), time.perf_counter()
        for prompt in itertools.islice(prompts, BLOCK):
            runner.run(prompt, seed=next(seeds), on_call=lambda *_: None)
        bare, spent = BLOCK / (time.perf_counter() - began), cpu_of(own) - spent
        answering = cpu_of(other)
        with ThreadPoolExecutor(SPARE) as pool:
            began = time.perf_counter()
            list(pool.map(ask, itertools.islice(prompts, BLOCK)))
            answered = BLOCK / (time.perf_counter() - began)
        if block:  # the first is for warming up
            rates["bare_run"].append(bare)
            rates["served"].append(answered)
            cpu["bare_run"] += spent
            cpu["served"] += cpu_of(other) - answering
    ratios = [s / b for s, b in zip(rates["served"], rates["bare_run"], strict=True)]
    pictures = BLOCK * blocks
    return {
        "pictures_per_second": {name: statistics.median(each) for name, each in rates.items()},
        "served_by_bare_run": statistics.median(ratios),
        "served_by_bare_run_quartiles": [float(np.percentile(ratios, q)) for q in (25, 75)],
        "processor_seconds_per_picture": {name: each / pictures for name, each in cpu.items()},
        "processor_time_bare_run_by_served": cpu["bare_run"] / cpu["served"],
        "pictures": pictures,
    }


def cpu_of(process: psutil.Process) -> float:
    """Seconds that all its threads have computed."""
    times = process.cpu_times()
    return float(times.user + times.system)


def counts(served: Served) -> dict[str, float]:
    """What the server has made."""
    return {
        "runs": served.metric("stepcarve_run_seconds_count"),
        "pictures": served.metric("stepcarve_pictures_total"),
        "stopped_runs": served.metric("stepcarve_stopped_runs_total"),
    }


def storm(served: Served, prompts: Iterator[str], count: int) -> dict[str, Any]:
    """Many requests at once. A twentieth is malformed, a twentieth cancelled; who is refused asks again."""
    kinds = ["malformed"] * (count // 20) + ["cancelled"] * (count // 20)
    kinds += ["whole"] * (count - len(kinds))
    random.Random(0).shuffle(kinds)
    texts = list(itertools.islice(prompts, TEXTS))
    before, counted = served.state(), counts(served)

    def send(numbered: tuple[int, str]) -> tuple[str, int, float]:
        number, kind = numbered
        body = body_of(texts[number % len(texts)], number)
        if kind == "cancelled":
            served.cancel(body, after=(number % 7) / 50)
            return kind, 0, 0.0
        if kind == "malformed":
            return kind, served.ask(MALFORMED[number % len(MALFORMED)])[0], 0.0
        while True:
            began = time.perf_counter()
            status, _ = served.ask(body)
            if status != 429:
                return kind, status, time.perf_counter() - began
            time.sleep(0.2)

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(send, enumerate(kinds)))
    spent = time.perf_counter() - began
    time.sleep(2)
    waits = [seconds for kind, _, seconds in found if kind == "whole"]
    return {
        "requests": count,
        "clients": CLIENTS,
        "seconds": spent,
        "answered_with_a_picture": sum(
            status == 200 for kind, status, _ in found if kind == "whole"
        ),
        "lost": sum(status != 200 for kind, status, _ in found if kind == "whole"),
        "malformed": kinds.count("malformed"),
        "malformed_answered_400": sum(status == 400 for kind, status, _ in found),
        "cancelled": kinds.count("cancelled"),
        "latency_seconds": {f"p{q}": float(np.percentile(waits, q)) for q in (50, 90, 99)},
        **{name: value - counted[name] for name, value in counts(served).items()},
        "places_taken_afterwards": served.metric("stepcarve_held_requests"),
        "waiting_afterwards": served.metric("stepcarve_waiting_pictures"),
        "state_before": before,
        "state_afterwards": served.state(),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--many",
    type=click.Path(path_type=Path),
    help="Another bundle for the test of many at once.  [default: the same]",
)
@click.option("--blocks", default=25, help=f"Turns of {BLOCK} pictures each.")
@click.option("--requests", default=1000, help="In the test of many at once.")
def main(bundle: Path, many: Path | None, blocks: int, requests: int) -> None:
    """Measure, and write results/serve.json."""
    opened, other = Bundle.open(bundle), Bundle.open(many or bundle)
    runner = Runner(opened, make_engine("onnxruntime", "cpu"))
    with serving(bundle) as served:
        one = throughput(served, runner, _prompts(opened), blocks)
    click.echo(json.dumps(one))
    with serving(other.path) as served:
        storm(served, _prompts(other), requests // 5)  # for warming up
        at_once = storm(served, _prompts(other), requests)
    click.echo(json.dumps(at_once))
    result = {"one_picture": _about(opened) | one, "many_at_once": _about(other) | at_once}
    write("serve", {"load_average": os.getloadavg()[1], **result})


def _prompts(bundle: Bundle) -> Iterator[str]:
    return (f"{bundle.default_prompt} {number}" for number in itertools.count())


def _about(bundle: Bundle) -> dict[str, Any]:
    return {
        "denoiser": bundle.subnet.binding.denoiser,
        "method": bundle.subnet.method,
        "calls": len(bundle.calls),
        "shapes": [str(shape) for shape in bundle.shapes],
    }


if __name__ == "__main__":
    main()
