"""Building one graph in its own process, so that a crash of the builder does not end ours."""

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

from filelock import FileLock

from engines.base import EngineOptions, make_engine
from engines.built import BuildInputs, Record, flaw, read_record
from engines.errors import EngineError
from engines.temporary import process_name
from search.core.files import flush, sha256

if TYPE_CHECKING:
    from engines.base import Report

LOCK = ".lock"
"""Lock file held while a build is committed to a folder."""
PARTIAL = ".partial-"
"""Prefix of the names of unfinished folders."""


@dataclass(frozen=True)
class BuildJob:
    """One graph to build.

    Attributes:
        engine: its name.
        device: as on the command line.
        options: of the engine.
        graph: the ONNX file.
        suffix: of the file to make.
        record: where its record goes, and the file beside it.
        source: what the record says.
    """

    engine: str
    device: str
    options: EngineOptions
    graph: Path
    suffix: str
    record: Path
    source: BuildInputs


def build_apart(job: BuildJob, report: Report = lambda *_: None) -> Record:
    """Do a job in a child process, which ends when this one does.

    Raises:
        EngineError: the graph cannot be built, or the process died.
    """
    job.record.parent.mkdir(parents=True, exist_ok=True)
    # -P: a folder `engines` or `search` where the user happens to be is not ours.
    command = [sys.executable, "-P", "-m", "engines.builder"]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
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
        output.seek(0)
        last = output.read().strip().splitlines()[-1:]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    msg = (
        f"the process that built {job.graph.name} with {job.engine} died ({how}"
        f"{''.join(f': {line[:200]}' for line in last)}); free memory, use fewer --jobs, or leave "
        "this engine out"
    )
    raise EngineError(msg)


def build_here(job: BuildJob, report: Report) -> Record:
    """Do a job in this process, unless another process has done it meanwhile."""
    engine = make_engine(job.engine, job.device, job.options)
    here = BuildInputs(job.source.graph, job.source.weights, engine.key())
    if different := here.differences(job.source):
        msg = f"{job.graph.name} is to be built for {different}; use workers with the same hardware and versions"
        raise EngineError(msg)
    found = read_record(job.record)
    if found is not None and not flaw(job.record, found, job.source):
        return found
    partial = Path(tempfile.mkdtemp(prefix=f"{process_name(PARTIAL)}.", dir=job.record.parent))
    try:
        made = partial / f"{job.graph.stem}{job.suffix}"
        began = time.perf_counter()
        engine.build(job.graph, made, report)
        seconds = time.perf_counter() - began
        return commit(made, job.suffix, job.record, job.source, seconds)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def commit(
    made: Path, suffix: str, record_path: Path, source: BuildInputs, seconds: float
) -> Record:
    """Make `made`, a file on the same disk, the built file of a record; returns the one that counts.

    Of two builds of one graph the first that gets here stays, so that no file in use is removed.
    """
    digest = sha256(made)
    file = f"{record_path.stem}.{digest[:16]}{suffix}"
    record = Record(source, file, digest, made.stat().st_size, seconds)
    flush(made)
    with FileLock(record_path.parent / LOCK):
        found = read_record(record_path)
        if found is not None and not flaw(record_path, found, source):
            return found
        made.replace(record_path.parent / file)
        flush(record_path.parent)
        record.save(record_path)
        for path in record_path.parent.glob(f"{record_path.stem}.*"):
            if path.name not in (file, record_path.name):
                path.unlink(missing_ok=True)
    return record


def main() -> None:
    """Read a job from stdin, do it, and report progress on stdout, one JSON object per line."""
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
    """Stdout for the answers alone; the libraries' output goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _job(content: dict[str, Any]) -> BuildJob:
    paths = {name: Path(content[name]) for name in ("graph", "record")}
    parts = {
        "options": EngineOptions(**content["options"]),
        "source": BuildInputs(**content["source"]),
    }
    return BuildJob(**{**content, **paths, **parts})


if __name__ == "__main__":
    main()
