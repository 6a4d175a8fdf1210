"""Requests that wait, that go, and that the server is stopped under."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import openai
import pytest

from engines.errors import NotFiniteError
from engines.runner import Runner
from engines.serve.served import Served
from tests.engines.serve.gate import Gate, Running, pixels, until

Start = Callable[..., Running]


def hang_up(running: Running, **fields: object) -> socket.socket:
    """A connection on which a request was sent; to be closed before its answer comes."""
    body = json.dumps({"prompt": "red", **fields}).encode()
    host, port = running.place.split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {running.place}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def test_equal_requests_share_a_run(
    start: Start, gate: Gate, pool: ThreadPoolExecutor, alone: Callable[..., np.ndarray]
) -> None:
    running = start()
    gate.close()

    def ask(prompt: str, seed: int) -> Future[openai.types.ImagesResponse]:
        held = running.metric("stepcarve_held_requests")
        asked = pool.submit(
            running.client.images.generate, prompt=prompt, extra_body={"seed": seed}
        )
        until(lambda: running.metric("stepcarve_held_requests") == held + 1)
        return asked

    first = ask("red", 0)
    gate.wait_for_run()
    others = [ask("red", 1), ask("blue", 2), ask("red", 3)]
    gate.open()
    first.result()
    found = [pixels(other.result().data[0].b64_json) for other in others]  # type: ignore[index]
    for image, (prompt, seed) in zip(found, [("red", 1), ("blue", 2), ("red", 3)], strict=True):
        assert np.abs(image.astype(int) - alone(prompt, seed, on_call=ignore)).max() <= 1
    assert running.metric("stepcarve_run_seconds_count") == 3, "red 1 and red 3 share one"


def ignore(*_: object) -> None:
    """The gate wants something to call."""


def test_a_bundle_of_pairs_makes_one_picture_too(
    start: Start,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    alone: Callable[..., np.ndarray],
) -> None:
    expected = alone("red", 4)
    monkeypatch.setattr(served, "runners", {(24, 24): {2: served.runners[24, 24][2]}})
    made = start().client.images.generate(prompt="red", extra_body={"seed": 4})
    assert made.data
    difference = pixels(made.data[0].b64_json).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_a_full_queue_says_when_to_come_again(
    start: Start, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    running = start(places=2)
    gate.close()
    held = [pool.submit(running.client.images.generate, prompt=p) for p in ("red", "blue")]
    until(lambda: running.metric("stepcarve_held_requests") == 2)
    with pytest.raises(openai.RateLimitError, match="all 2 places are taken") as refused:
        running.client.images.generate(prompt="green")
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    gate.open()
    assert all(each.result().data for each in held)
    patient = running.client.with_options(max_retries=5)
    assert patient.images.generate(prompt="green").data
    assert running.metric("stepcarve_held_requests") == 0


@pytest.mark.parametrize("fields", [{}, {"stream": True, "partial_images": 1}])
def test_a_dropped_request_frees_its_place_and_stops(
    start: Start, gate: Gate, fields: dict[str, object]
) -> None:
    running = start(places=1)
    gate.close()
    connection = hang_up(running, **fields)
    gate.wait_for_run()
    assert running.metric("stepcarve_held_requests") == 1
    connection.close()
    until(lambda: running.metric("stepcarve_held_requests") == 0)
    gate.open()
    assert running.client.images.generate(prompt="blue").data
    assert running.metric("stepcarve_stopped_runs_total") == 1
    assert running.metric("stepcarve_pictures_total") == 1


def test_a_dropped_request_that_waits_is_never_run(start: Start, gate: Gate) -> None:
    running = start(places=2)
    gate.close()
    with hang_up(running):
        gate.wait_for_run()
        waiting = hang_up(running, prompt="blue", n=4)
        until(lambda: running.metric("stepcarve_waiting_pictures") == 4)
        waiting.close()
        until(lambda: running.metric("stepcarve_waiting_pictures") == 0)
        assert running.metric("stepcarve_held_requests") == 1
        gate.open()
        until(lambda: running.metric("stepcarve_pictures_total") == 1)
    until(lambda: running.metric("stepcarve_held_requests") == 0)


def test_a_request_ends_after_the_time_limit(start: Start, gate: Gate) -> None:
    running = start(seconds=0.3)
    gate.close()
    with pytest.raises(openai.InternalServerError, match="were not made within") as late:
        running.client.images.generate(prompt="red")
    assert late.value.status_code == 504
    assert running.metric("stepcarve_held_requests") == 0
    gate.open()
    until(lambda: running.metric("stepcarve_stopped_runs_total") == 1)


def test_what_has_begun_is_finished_and_what_waits_is_refused(
    start: Start, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    running = start()
    gate.close()
    begun = pool.submit(running.client.images.generate, prompt="red", n=3)
    gate.wait_for_run()
    waits = pool.submit(running.client.images.generate, prompt="blue")
    until(lambda: running.metric("stepcarve_held_requests") == 2)
    running.server.should_exit = True
    with pytest.raises(openai.InternalServerError, match="the server is shutting down") as refused:
        waits.result()
    assert (refused.value.status_code, refused.value.response.headers["Retry-After"]) == (503, "5")
    assert not begun.done()
    gate.open()
    assert len(begun.result().data or ()) == 3
    running.thread.join(30)
    assert not running.thread.is_alive()


def test_a_run_that_fails_is_told_and_the_next_works(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    original = Runner.run

    def run(runner: Runner, prompt: str, **given: object) -> object:
        if prompt == "bad":
            raise NotFiniteError("the noise prediction is not finite")
        if prompt == "worse":
            raise RuntimeError("an engine's own")
        return original(runner, prompt, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "run", run)
    for prompt, message in (("bad", "is not finite"), ("worse", "RuntimeError: an engine's own")):
        with pytest.raises(openai.InternalServerError, match=message):
            running.client.images.generate(prompt=prompt)
        with pytest.raises(openai.APIError, match=message):
            list(running.client.images.generate(prompt=prompt, stream=True))
    assert running.client.images.generate(prompt="good").data
    assert running.metric("stepcarve_held_requests") == 0


def test_many_at_once_all_get_an_answer(start: Start, pool: ThreadPoolExecutor) -> None:
    running = start(places=4)
    statuses = list(
        pool.map(lambda n: running.ask("POST", "/v1/images/generations", json.dumps(
            {"prompt": "red" if n % 3 else "blue", "seed": n}))[0], range(24))
    )  # fmt: skip
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 4
    assert running.metric("stepcarve_held_requests") == 0
    assert running.metric("stepcarve_pictures_total") == statuses.count(200)
    assert threading.active_count() < 40
