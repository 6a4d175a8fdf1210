"""Building one graph in a process of its own: a builder that crashes takes nothing else with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engines.base import EngineOptions, make_engine
from engines.built import Record, Source
from engines.errors import EngineError
from engines.temporary import process_name
from exporter.bundle import sha256
from search.core.files import flush

if TYPE_CHECKING:
    from engines.base import Report

PARTIAL = ".partial-"
"""Begins the names of folders of what is not whole yet."""


@dataclass(frozen=True)
class Job:
    """One graph to build.

    Attributes:
        engine: its name.
        device: as on the command line.
        options: of the engine.
        graph: the ONNX file.
        out: what to make; its record goes beside it.
        source: what the record says.
    """

    engine: str
    device: str
    options: EngineOptions
    graph: Path
    out: Path
    source: Source


def build_apart(job: Job, report: Report = lambda *_: None) -> Record:
    """Do a job in a new process, which ends when this one does.

    Raises:
        EngineError: the graph cannot be built, or the process died.
    """
    job.out.parent.mkdir(parents=True, exist_ok=True)
    # -P: a folder `engines` or `search` where the user happens to be is not ours.
    command = [sys.executable, "-P", "-m", "engines.builder"]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(asdict(job), default=str) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            message = json.loads(line)
            if "error" in message:
                raise EngineError(message["error"])
            if "record" in message:
                return Record(job.source, **message["record"])
            report(*message["report"])
        code = child.wait()
        said.seek(0)
        last = said.read().strip().splitlines()[-1:]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    msg = (
        f"the process that built {job.graph.name} with {job.engine} died ({how}"
        f"{''.join(f': {line[:200]}' for line in last)}); free memory, give fewer --jobs, or leave "
        "this engine out"
    )
    raise EngineError(msg)


def build_here(job: Job, report: Report) -> Record:
    """Do a job in this process: the file appears whole or not at all, and its record after it."""
    engine = make_engine(job.engine, job.device, job.options)
    here = Source(job.source.graph, job.source.weights, engine.key())
    if different := here.differences(job.source):
        msg = f"{job.graph.name} is to be built for {different}; use workers that are all alike"
        raise EngineError(msg)
    partial = job.out.parent / process_name(PARTIAL)
    partial.mkdir()
    try:
        made = partial / job.out.name
        began = time.perf_counter()
        engine.build(job.graph, made, report)
        seconds = time.perf_counter() - began
        record = Record(job.source, sha256(made), made.stat().st_size, seconds)
        flush(made)
        made.replace(job.out)
        record.save(job.out.with_suffix(".json"))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def main() -> None:
    """Read a job from stdin, do it, and say on stdout, a JSON object per line, how it goes."""
    with _own_stdout() as out:
        job = _job(json.loads(sys.stdin.readline()))
        threading.Thread(target=_end_with_parent, daemon=True).start()

        def say(**message: Any) -> None:
            print(json.dumps(message), file=out, flush=True)

        try:
            record = build_here(job, lambda text, share=None: say(report=[text, share]))
        except (EngineError, OSError) as error:
            say(error=str(error))
        else:
            say(record={n: v for n, v in vars(record).items() if n != "source"})


def _own_stdout() -> IO[str]:
    """The stdout for the answers alone: what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _job(content: dict[str, Any]) -> Job:
    paths = {name: Path(content[name]) for name in ("graph", "out")}
    parts = {
        "options": EngineOptions(**content["options"]),
        "source": Source(**content["source"]),
    }
    return Job(**{**content, **paths, **parts})


if __name__ == "__main__":
    main()
