"""The whole command on a tiny pipeline, alone and killed in every stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.command_line import stepcarve
from tests.pipelines import RANDOM

OPTIONS = ("--quality", "quick", "--steps", "6", "--keep", "0.5", "--engine", "onnxruntime")
DONE = ("search", "compare", "export", "build", "verify", "bench", "page")


def checked(out: Path, calls: int) -> dict[str, object]:
    """What a finished run has left; refuses half of anything."""
    result: dict[str, object] = json.loads((out / "result.json").read_text())
    assert result["passed"] is True
    assert result["calls"] == calls
    assert set(json.loads((out / "times.json").read_text())) == set(DONE)
    hidden = {path.name for path in out.rglob(".*")}
    assert hidden <= {".lock"}
    page = (out / "index.html").read_text()
    assert 'class="verdict holds"' in page
    assert page.count("data:image/png") >= 4
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three-levels", "learned-variance", "sd3"])
def test_one_command_makes_a_bundle_and_its_page(
    name: str, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """Texts, classes, and two streams of tokens."""
    out = tmp_path / "out"
    line = ("optimize", pipelines(name), "-o", out, *OPTIONS)
    done = stepcarve(*line)
    assert done.exit_code == 0, done.output
    result = checked(out, 3)
    assert "to search and about" in done.stderr, "the minutes are said beforehand"
    command = str(result["run"]).split(" -o ")[0].split()[1:]
    assert ("--label" in command) is (name == "learned-variance")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = stepcarve(*line, "--json")
    assert json.loads(again.stdout) == result
    changed = {p.name for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"settings.json", ".lock"}, "the second time, nothing is made"
    refused = stepcarve(*line, "--seed", 1)
    assert refused.exit_code == 2
    assert "holds a run with another seed" in refused.stderr


KILLED_WHEN: dict[str, Callable[[Path], bool]] = {
    "search": lambda out: any(out.glob("search/keep-0.5/search.json")),
    "compare": lambda out: (out / "subnet.json").exists(),
    "export": lambda out: any(out.glob("bundles/.float32.partial/finished.json")),
    "build": lambda out: any(out.glob("full/.float32.partial/finished.json")),
    "verify": lambda out: any(out.glob("parity/.float32.*")),
    "bench": lambda out: any(out.glob("bench/.float32.*")),
    "page": lambda out: (out / "bench" / "float32").exists(),
}
"""What is there once the stage, or in place of the short `build` the full sampler's export, has begun."""


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_like_one_that_is_not(tmp_path: Path) -> None:
    pipeline, out = tmp_path / "pipeline", tmp_path / "out"
    RANDOM["three-levels"]().save_pretrained(pipeline)
    line = [sys.executable, "-m", "cli", "optimize", str(pipeline), *OPTIONS]
    for has_begun in KILLED_WHEN.values():
        killed(line, out, has_begun)
        finished = {
            p: p.stat().st_mtime_ns for p in (out / "subnet.json", out / "quality") if p.exists()
        }
    done = subprocess.run([*line, "-o", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked(out, 3)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished, (
        "what was there was not made again"
    )
    straight = tmp_path / "straight"
    subprocess.run([*line, "-o", str(straight)], capture_output=True, check=True)
    for file in ("subnet.json", "quality/pictures.json", "bundles/float32/manifest.json"):
        assert (out / file).read_bytes() == (straight / file).read_bytes(), file


def killed(line: list[str], out: Path, has_begun: Callable[[Path], bool]) -> None:
    """Run until a stage has begun, then SIGKILL; the processes that it started end too."""
    process = subprocess.Popen(
        [*line, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not has_begun(out):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "what it started ends with it"
