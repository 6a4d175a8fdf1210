"""The blocks of the pages, run in a fresh directory that holds the examples, as a reader would."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page that are marked as `language`."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for marked, text in found if marked == language]


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in one shell, which ends at the first command that fails.

    The environment that pages activate is this one. `stepcarve serve` ends when it has answered.
    """
    (folder / "examples").symlink_to(ROOT / "examples")
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").touch()
    serve = f'[ "$1" = serve ] && exec {sys.executable} -m tests.documented "$@"\n'
    for name, lines in (("stepcarve", f'{serve}exec {sys.executable} -m cli "$@"\n'),
                        ("python", f'exec {sys.executable} "$@"\n')):  # fmt: skip
        (bin_folder / name).write_text(f"#!/bin/sh\n{lines}")
        (bin_folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        ["sh", "-euc", script],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def serve(words: list[str]) -> int:
    """Start a server on a free port, ask it how it is, and stop it as Ctrl-C does; its exit code."""
    line = [sys.executable, "-m", "cli", *words, "--port", "0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        return server.wait(60)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
