"""What tests of the server work with."""

from __future__ import annotations

import base64
import http.client
import io
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openai
from PIL import Image

from engines.serve.server import Server


class Gate:
    """Runs wait at it while it is closed."""

    def __init__(self) -> None:
        self._is_open, self._reached = threading.Event(), threading.Semaphore(0)
        self._is_open.set()

    def close(self) -> None:
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    def pass_through(self) -> None:
        self._reached.release()
        assert self._is_open.wait(30)

    def wait_for_run(self) -> None:
        """Until a run is at the closed gate."""
        assert self._reached.acquire(timeout=30)


@dataclass(frozen=True)
class Running:
    """A server in a thread, and a client of it."""

    address: str
    client: openai.OpenAI
    server: Server
    thread: threading.Thread

    @property
    def place(self) -> str:
        return self.address.removeprefix("http://")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, http.client.HTTPMessage]:
        """Status, body and headers of the answer to a plain request."""
        given = {"Content-Type": "application/json"} if headers is None else headers
        connection = http.client.HTTPConnection(self.place, timeout=60)
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def metric(self, name: str, token: str = "") -> float:
        """A value that `/metrics` shows, summed over its labels."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        text = self.ask("GET", "/metrics", headers=headers)[1]
        found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def pixels(encoded: str | None) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(encoded or ""))) as image:
        return np.asarray(image)
