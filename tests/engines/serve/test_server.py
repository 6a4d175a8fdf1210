"""The process: signals, addresses, names, and what it loads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from engines.errors import EngineError
from engines.serve.server import Settings, named
from tests.command_line import stepcarve
from tests.engines.serve.gate import until


@contextmanager
def process(*words: object, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`stepcarve serve` in a process of its own, and its address."""
    command = [sys.executable, "-m", "cli", "serve", *map(str, words), "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | variables
    ) as started:  # fmt: skip
        try:
            assert started.stdout is not None
            told = json.loads(started.stdout.readline())
            yield started, told["address"]
        finally:
            started.kill()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_finishes_the_request_and_exits_with_0(pair: Path, number: signal.Signals) -> None:
    with (
        process(f"first={pair}", pair) as (started, address),
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == ["first", "pair"]
        answers: list[object] = []
        asking = threading.Thread(
            target=lambda: answers.append(client.images.generate(prompt="red", n=10))
        )
        asking.start()
        until(lambda: not asking.is_alive() or held(address) == 1)
        started.send_signal(number)
        asking.join(30)
        assert len(answers[0].data) == 10  # type: ignore[attr-defined]
        maps = Path(f"/proc/{started.pid}/maps")
        assert not maps.exists() or "libtorch" not in maps.read_text()
        assert started.wait(30) == 0
        assert started.stderr is not None
        assert started.stderr.read() == ""


def held(address: str) -> float:
    """How many requests the server holds."""
    import urllib.request

    with urllib.request.urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    (line,) = (each for each in text.splitlines() if each.startswith("stepcarve_held_requests "))
    return float(line.split()[1])


def test_a_host_that_others_reach_takes_a_token() -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.org", "::"):
        with pytest.raises(EngineError, match="there is no token that keeps strangers out; set"):
            Settings(host=host)
        Settings(host=host, token="secret")
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"):
        Settings(host=host)
    for token in ("", "ключ"):
        with pytest.raises(EngineError, match="empty or not ASCII"):
            Settings(token=token)


def test_names_of_models() -> None:
    assert named(["a/b", "x=a/c", "d=e=f/g"]) == {
        "b": Path("a/b"), "x": Path("a/c"), "d=e": Path("f/g"),
    }  # fmt: skip
    with pytest.raises(
        EngineError, match="two bundles have the name 'b', 'a/b' and 'c/b'; give one"
    ):
        named(["a/b", "c/b"])


def test_bad_lines_are_one_sentence(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, message in (
            (
                ("--port", port, pair),
                f"cannot listen at 127.0.0.1, port {port} (Address already in use)",
            ),
            (("--host", "0.0.0.0", pair), "other machines can reach '0.0.0.0'"),
            (("--token-file", tmp_path / "token", pair), "the token is empty"),
            ((tmp_path,), "is not a bundle"),
            ((), "Missing argument"),
        ):
            result = stepcarve("serve", *words)
            assert result.exit_code == 2, result.output
            assert message in result.stderr
            assert len(result.stderr.strip().splitlines()) == 1
