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
from typing import Any

import psutil
import pytest

from search.core.subnet import SubNet
from tests.command_line import stepcarve
from tests.pipelines import RANDOM

OPTIONS = ("--quality", "quick", "--steps", "6", "--keep", "0.5", "--engine", "onnxruntime")


def checked(out: Path, calls: int) -> dict[str, Any]:
    """What a finished run has left; refuses half of anything."""
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert result["passed"] is True
    assert result["calls"] == calls
    assert "page" in json.loads((out / "times.json").read_text())
    hidden = {path.name for path in out.rglob(".*")}
    assert hidden <= {".lock"}
    page = (out / "index.html").read_text()
    assert 'class="verdict holds"' in page
    assert page.count("data:image/png") >= 4
    return result


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], Path]:
    """The command for a tiny pipeline, and the folder of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("straight")
    RANDOM["three-levels"]().save_pretrained(root / "pipeline")
    line = ["optimize", root / "pipeline", *OPTIONS]
    done = stepcarve(*line, "-o", root / "out")
    assert done.exit_code == 0, done.output
    assert "and the rest about" in done.stderr, "the expected minutes are printed first"
    return line, root / "out"


@pytest.mark.slow
def test_a_finished_folder_is_told_again_and_not_touched(
    straight: tuple[list[object], Path],
) -> None:
    line, out = straight
    result = checked(out, 3)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = stepcarve(*line, "-o", out, "--json")
    assert json.loads(again.stdout) == result
    changed = {p.name for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"settings.json", ".lock"}
    refused = stepcarve(*line, "-o", out, "--seed", 1)
    assert refused.exit_code == 2
    assert "holds a run that differs in seed" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [("learned-variance", "--label"), ("sd3", "--prompt")])
def test_classes_and_two_streams_of_tokens(
    name: str, option: str, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    done = stepcarve("optimize", pipelines(name), "-o", tmp_path / "out", *OPTIONS)
    assert done.exit_code == 0, done.output
    assert option in str(checked(tmp_path / "out", 3)["run"]).split()


@pytest.mark.slow
def test_both_halves_of_guidance_are_searched_and_compared_with_one_call(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = stepcarve("optimize", pipelines("sd3"), "-o", out, *OPTIONS, "--split-streams")
    assert done.exit_code == 0, done.output
    found = SubNet.load(out / "subnet.json")
    checked(out, found.steps)
    assert found.binding.split_streams
    full = SubNet.load(out / "full" / "float32" / "subnet.json")
    assert not full.binding.split_streams


@pytest.mark.slow
def test_a_quality_is_reached_at_the_least_cost_in_the_fastest_of_two_precisions(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out, line = tmp_path / "out", list(OPTIONS)
    at = line.index("--keep")
    line[at : at + 2] = ["--max-error", "0.3", "--dtype", "float32,float16"]
    done = stepcarve("optimize", pipelines("three-levels"), "-o", out, *line)
    assert done.exit_code == 0, done.output
    result = json.loads((out / "result.json").read_text())
    assert result["goal_met"] is True
    assert result["quality"]["error"] <= 0.3
    assert "quality in float16" in result["not_done"]
    rows = {row["dtype"]: row for row in result["measured"]}
    assert set(rows) == {"float32", "float16"}
    assert result["taken"] == min(rows.values(), key=lambda row: row["seconds"])
    sizes = {d: (out / "bundles" / d / "weights.bin").stat().st_size for d in rows}
    assert sizes["float16"] < sizes["float32"]
    tried = {float(path.stem.removeprefix("keep-")) for path in out.glob("search/keep-*.json")}
    points = json.loads((out / "quality" / "frontier" / "frontier.json").read_text())["points"]
    errors = {p["keep"]: p["distances"]["full"]["mean"] for p in points if p["method"] == "carve"}
    assert set(errors) == tried
    taken = min(keep for keep, error in errors.items() if error <= 0.3)
    assert errors[taken] == pytest.approx(result["quality"]["error"])


@pytest.mark.slow
def test_few_bits_are_one_more_row_of_the_table(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = ["optimize", pipelines("learned-variance"), "-o", out, *OPTIONS]
    line += ["--precision", "int8"]
    done = stepcarve(*line)
    assert done.exit_code == 0, done.output
    result = checked(out, 3)
    assert "quantised layers" not in result["not_done"]
    rows = {row["precision"]: row for row in result["measured"]}
    if "int8" in result["not_done"]:  # random weights may round badly
        assert set(rows) == {"float32"}
        assert "at most" in result["not_done"]["int8"]
    else:
        assert set(rows) == {"float32", "int8"}
        assert result["taken"] == min(rows.values(), key=lambda row: row["seconds"])
        sizes = {p: (out / "bundles" / p / "weights.bin").stat().st_size for p in rows}
        assert sizes["int8"] < sizes["float32"]
        assert not (out / "full" / "int8").exists(), "the full sampler is that in floating point"
    points = json.loads((out / "quality" / "frontier" / "frontier.json").read_text())["points"]
    assert "int8" in {point["precision"] for point in points}
    files = list(out.rglob("*"))
    times = {path: path.stat().st_mtime_ns for path in files if path.is_file()}
    assert stepcarve(*line).exit_code == 0
    changed = {p.name for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"settings.json", ".lock"}


@pytest.mark.slow
def test_a_quality_that_no_cost_reaches_is_told_on_the_page(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out, line = tmp_path / "out", list(OPTIONS)
    at = line.index("--keep")
    line[at : at + 2] = ["--min-psnr", "99"]
    done = stepcarve("optimize", pipelines("three-levels"), "-o", out, *line)
    assert done.exit_code == 1, done.output
    result = json.loads((out / "result.json").read_text())
    assert result["goal_met"] is False
    assert result["parity_failures"] == []
    assert "The goal, a PSNR of at least 99 dB, is MISSED" in (out / "index.html").read_text()


@pytest.mark.slow
def test_a_video(tmp_path: Path) -> None:
    from PIL import Image

    from benchmarks.families.video_wan import SHORT, wan

    wan().save_pretrained(tmp_path / "wan")
    size = ("--height", SHORT["height"], "--width", SHORT["width"], "--frames", SHORT["num_frames"])
    call = ("--call", f"max_sequence_length={SHORT['max_sequence_length']}")
    out = tmp_path / "out"
    done = stepcarve("optimize", tmp_path / "wan", "-o", out, *OPTIONS, *size, *call)
    assert done.exit_code == 0, done.output
    checked(out, 6)  # three calls, each of two steps: with the prompt, and with the negative one
    with Image.open(out / "quality" / "ours-0.png") as shown:
        assert shown.size == (32, 32)
    rows = json.loads((out / "bench" / "float32" / "bench.json").read_text())["rows"]
    eager = next(row for row in rows if row["kind"] == "eager")
    assert len(eager["call_seconds"]) == 6, "a step is one call, with and without the prompt"


KILLED_WHEN: dict[str, Callable[[Path], bool]] = {
    "search": lambda out: any(out.glob("search/keep-0.5/search.json")),
    "quantise": lambda out: (out / "subnet.json").exists(),
    "compare": lambda out: (out / "quantised.json").exists(),
    "export": lambda out: any(out.glob("bundles/.float32.partial/finished.json")),
    "build": lambda out: any(out.glob("full/.float32.partial/finished.json")),
    "verify": lambda out: any(out.glob("parity/.float32.*")),
    "bench": lambda out: any(out.glob("bench/.float32.*")),
    "page": lambda out: (out / "bench" / "float32").exists(),
}
"""What is there once the stage, or in place of the short `build` the full sampler's export, has begun."""


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_like_one_that_is_not(
    straight: tuple[list[object], Path], tmp_path: Path
) -> None:
    line, undisturbed = straight
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cli", *map(str, line), "-o", str(out)]
    made: dict[Path, int] = {}
    for has_begun in KILLED_WHEN.values():
        killed(command, out, has_begun)
        assert {path: path.stat().st_mtime_ns for path in made} == made, "nothing is made again"
        places = (out / "subnet.json", out / "quality", out / "bundles" / "float32")
        made = {path: path.stat().st_mtime_ns for path in places if path.exists()}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked(out, 3)
    for file in ("subnet.json", "quality/pictures.json", "bundles/float32/manifest.json"):
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes(), file


def killed(command: list[str], out: Path, has_begun: Callable[[Path], bool]) -> None:
    """Run until a stage has begun, then SIGKILL; the processes that it started end too."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not has_begun(out):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "what it started ends with it"
