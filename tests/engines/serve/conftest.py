"""A served bundle, a server in a thread, and a gate that its runs wait at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import openai
import pytest

from engines.base import make_engine
from engines.runner import Result, Runner
from engines.serve.served import Served
from engines.serve.server import Server, Settings
from tests.engines.serve.gate import Gate, Running


@pytest.fixture(scope="session")
def served(pair: Path) -> Served:
    return Served("pair", pair, partial(Runner, engine=make_engine("onnxruntime", "cpu")))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Open; while it is closed, runs wait after each of their calls."""
    made, original = Gate(), Runner.run

    def run(
        runner: Runner, prompt: str, *, on_call: Callable[..., None], **given: object
    ) -> Result:
        def look(*call: object) -> None:
            made.pass_through()
            on_call(*call)

        return original(runner, prompt, on_call=look, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "run", run)
    yield made
    made.open()


@pytest.fixture
def start(served: Served) -> Iterator[Callable[..., Running]]:
    """Start a server with some settings; it is stopped after the test."""
    with ExitStack() as stack:

        def begin(**settings: object) -> Running:
            return stack.enter_context(_running(served, Settings(port=0, **settings)))  # type: ignore[arg-type]

        yield begin


@contextmanager
def _running(served: Served, settings: Settings) -> Iterator[Running]:
    addresses: list[str] = []
    is_started = threading.Event()

    def started(address: str) -> None:
        addresses.append(address)
        is_started.set()

    server = Server({"pair": served}, settings, started)
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    assert is_started.wait(30)
    client = openai.OpenAI(
        base_url=f"{addresses[0]}/v1", api_key=settings.token or "none", max_retries=0, timeout=60
    )
    try:
        yield Running(addresses[0], client, server, thread)
    finally:
        client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def alone(served: Served) -> Callable[..., np.ndarray]:
    """The picture of a seed, made by a runner of one picture."""

    def make(prompt: str, seed: int, **settings: object) -> np.ndarray:
        runner = served.runners[24, 24][1]
        images: np.ndarray = runner.run(prompt, seed=seed, **settings).images[0]  # type: ignore[arg-type]
        return images

    return make
