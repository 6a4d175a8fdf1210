"""The server process: loads bundles, listens, and stops without losing what has begun."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from engines.errors import EngineError
from engines.serve.app import Desk, make_app
from engines.serve.metrics import Metrics
from engines.serve.queue import RequestQueue
from engines.serve.served import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engines.serve.served import Runs
    from exporter.bundle import Bundle


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: name or address to listen at.
        port: likewise; 0 takes a free one.
        places: how many requests are held at once; further ones are refused.
        seconds: in which a request must be answered.
        token: that requests must bring.
        workers: how many runs are made at once; more than one takes replicas.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    places: int = 16
    seconds: float = 300.0
    token: str | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse to let everybody in from elsewhere."""
        if self.token is None and not _is_local(self.host):
            msg = (
                f"other machines can reach {self.host!r}, and there is no token that keeps strangers out; set "
                "STEPCARVE_TOKEN, give --token-file, or leave --host out"
            )
            raise EngineError(msg)
        if self.token is not None and (not self.token or not self.token.isascii()):
            msg = "the token is empty or not ASCII; choose letters and digits"
            raise EngineError(msg)


def named(bundles: Sequence[str]) -> dict[str, Path]:
    """Bundles by the names of their models: `NAME=PATH`, or a path whose folder gives the name.

    Raises:
        EngineError: two have one name.
    """
    found: dict[str, Path] = {}
    for each in bundles:
        name, _, path = each.rpartition("=")
        name = name or Path(path).resolve().name
        if name in found:
            msg = (
                f"two bundles have the name {name!r}, {str(found[name])!r} and {path!r}; give one another, "
                f"as in other={path}"
            )
            raise EngineError(msg)
        found[name] = Path(path)
    return found


class Server(uvicorn.Server):
    """Answers requests for some models until it is told to stop."""

    def __init__(
        self,
        models: Mapping[str, Served],
        settings: Settings,
        on_started: Callable[[str], None] = lambda _: None,
    ) -> None:
        metrics = Metrics()
        self.queue = RequestQueue(settings.places, metrics, settings.workers)
        desk = Desk(models, self.queue, metrics, settings.seconds, settings.token)
        super().__init__(
            uvicorn.Config(
                make_app(desk),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.seconds)),
            )
        )
        self._settings, self._on_started = settings, on_started

    def run_until_stopped(self) -> None:
        """Listen; returns when a signal or `should_exit` has stopped it and what had begun is finished.

        Raises:
            EngineError: the host or the port cannot be listened at.
        """
        listener = _listen(self._settings.host, self._settings.port)
        host, port = listener.getsockname()[:2]
        self._address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        try:
            with _signals_ignored():
                self.run(sockets=[listener])
        finally:
            self.queue.close()
            listener.close()
        if not self.force_exit:
            self.queue.join()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; tells the address."""
        await super().startup(sockets)
        self._on_started(self._address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; refuses what waits first, so that only what has begun is waited for."""
        self.queue.close()
        await super().shutdown(sockets)


def load(
    bundles: Mapping[str, Path],
    runner_of: Callable[[Bundle], Runs],
    report: Callable[[str], None],
) -> dict[str, Served]:
    """All bundles, at all of their shapes; `runner_of` makes what runs a variant.

    Raises:
        ExportError: one is damaged.
        EngineError: one cannot be loaded, or not be served.
    """
    return {name: Served(name, path, runner_of, report) for name, path in bundles.items()}


def _is_local(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        msg = f"cannot listen at {host}, port {port} ({reason}); choose another --port or --host"
        raise EngineError(msg) from error


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """While open, the signals that uvicorn raises once more after it has stopped do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda *_: None) for each in handled}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
