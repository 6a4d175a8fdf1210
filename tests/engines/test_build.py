"""Builds: only what is missing, only what fits, whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from engines.base import Engine, EngineOptions, make_engine
from engines.build import BuildPlan, Item, build_bundle, plan_build
from engines.builder import PARTIAL, BuildJob, build_apart, build_here, commit
from engines.built import BuildInputs, built_file, read_record, record_of, source_of
from engines.errors import EngineError
from engines.runner import Runner
from engines.temporary import remove_stale
from exporter.bundle import Bundle
from exporter.errors import ExportError
from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from search.runs.parallel import Where

PROMPT = "7"


@pytest.fixture(scope="module")
def fresh(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    options = Options(steps=4, keep=0.6, guidance=3.5)
    return make_bundle("learned-variance", search(opened, "random", options))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine("openvino", "cpu")


@pytest.fixture(scope="module")
def built(fresh: Bundle, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = shutil.copytree(fresh.path, tmp_path_factory.mktemp("built") / "bundle")
    bundle = Bundle.open(path)
    build_bundle(bundle, engine)
    return bundle


@pytest.fixture
def copy(built: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(built.path, tmp_path / "bundle")))


def missing(bundle: Bundle, engine: Engine) -> set[str]:
    return {item.graph for item in plan_build(bundle, engine).missing}


def job(bundle: Bundle, engine: Engine, record: Path) -> BuildJob:
    graph = bundle.conditioner
    source = source_of(bundle, engine, graph)
    return BuildJob(
        "openvino", "cpu", EngineOptions(), bundle.path / graph, ".blob", record, source
    )


def place_of(bundle: Bundle, engine: Engine, graph: str) -> Path:
    """The built file of a graph."""
    path = record_of(bundle, engine, graph)
    record = read_record(path)
    assert record is not None
    return path.with_name(record.file)


def test_a_build_is_whole_and_run_uses_it(built: Bundle, fresh: Bundle, engine: Engine) -> None:
    assert missing(fresh, engine) == set(fresh.models)
    assert missing(built, engine) == set()
    assert all(built_file(built, engine, graph) for graph in built.models)
    assert [built_file(fresh, engine, graph) for graph in fresh.models] == [None] * len(
        fresh.models
    )
    from_files, in_memory = (Runner(each, engine).run(PROMPT, seed=1) for each in (built, fresh))
    assert np.array_equal(from_files.latents, in_memory.latents)


def test_a_killed_build_goes_on_with_what_is_missing(
    fresh: Bundle, engine: Engine, tmp_path: Path
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(fresh.path, tmp_path / "bundle")))
    folder = record_of(bundle, engine, bundle.conditioner).parent
    command = [sys.executable, "-m", "cli", "build", str(bundle.path), "--engine", "openvino"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (any(folder.glob("*.json")) and any(folder.glob(f"{PARTIAL}*"))):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = missing(bundle, engine)
    assert left
    assert left < set(bundle.models)
    done = {
        path: path.stat().st_mtime_ns
        for path in folder.glob("*.blob")
        if path.name.split(".")[0] + ".onnx" not in left
    }
    deadline = time.monotonic() + 20
    while list(folder.glob(f"{PARTIAL}*")):
        assert time.monotonic() < deadline, "the builder ends when it sees that its parent has gone"
        time.sleep(0.1)
        remove_stale(folder, PARTIAL)
    made = build_bundle(bundle, engine)
    assert {item.graph for item in made.plan.missing} == left
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was there stays"
    assert not missing(bundle, engine)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            r"has \d+ bytes, but \d+ were written",
        ),
        (
            lambda path: path.write_bytes(
                bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]
            ),
            r"its SHA-256 is \w{12}\.\.\., but its record says \w{12}",
        ),
    ],
)
def test_a_damaged_file_is_refused_and_built_again(
    copy: Bundle, engine: Engine, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(place_of(copy, engine, copy.decoder))
    with pytest.raises(EngineError, match=f"{sentence}.*; run stepcarve build --engine openvino"):
        Runner(copy, engine)
    assert missing(copy, engine) == {copy.decoder}


@pytest.mark.parametrize("what", ["graph", "weights"])
def test_a_file_built_from_something_else_is_refused_with_both_values(
    copy: Bundle, engine: Engine, what: str
) -> None:
    record = record_of(copy, engine, copy.decoder)
    content = json.loads(record.read_text())
    content["source"][what] = "0" * 64
    record.write_text(json.dumps(content))
    here = source_of(copy, engine, copy.decoder)
    expected = f"built for {what} '000000000000' .here '{getattr(here, what)[:12]}'."
    with pytest.raises(EngineError, match=expected):
        Runner(copy, engine)
    assert missing(copy, engine) == {copy.decoder}


def killed_after(step: str, todo: BuildJob) -> None:
    """Do a job in a process that is killed where it calls `step` of `engines.builder`."""
    code = (
        "import os, signal\nfrom engines import builder\n"
        f"builder.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nbuilder.main()\n"
    )
    line = json.dumps(asdict(todo), default=str) + "\n"
    # The process ends when its stdin does, so that stays open.
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        child.stdin.write(line)
        child.stdin.flush()
        assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("step", ["Record.save", "flush", "FileLock"])
@pytest.mark.parametrize("before", ["nothing", "whole", "damaged"])
def test_a_kill_between_file_and_record_leaves_what_was_there_before(
    copy: Bundle, engine: Engine, step: str, before: str
) -> None:
    graph = copy.conditioner
    record = record_of(copy, engine, graph)
    if before == "nothing":
        shutil.rmtree(record.parent)
        record.parent.mkdir()
    elif before == "damaged":
        place_of(copy, engine, graph).write_bytes(b"damaged")
    else:  # of another graph, as after a new export: what is built now replaces it
        content = json.loads(record.read_text())
        content["source"]["graph"] = "0" * 64
        record.write_text(json.dumps(content))
    told = record.read_text() if record.exists() else None
    killed_after(step, job(copy, engine, record))
    assert (record.read_text() if record.exists() else None) == told
    if told is None:
        assert built_file(copy, engine, graph) is None, "run compiles in memory, as if nothing was"
    build_here(job(copy, engine, record), lambda *_: None)
    found = built_file(copy, engine, graph)
    assert found is not None
    files = {path.name for path in record.parent.glob(f"{record.stem}.*")}
    assert files == {record.name, found.name}, "what the killed build left is gone"


def test_two_builds_at_once_are_both_usable(fresh: Bundle, engine: Engine, tmp_path: Path) -> None:
    bundle = Bundle.open(Path(shutil.copytree(fresh.path, tmp_path / "bundle")))
    command = [sys.executable, "-m", "cli", "build", str(bundle.path), "--engine", "openvino"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert not missing(bundle, engine)
    for graph in bundle.models:
        record = record_of(bundle, engine, graph)
        assert len(list(record.parent.glob(f"{record.stem}.*"))) == 2, "one record, one file"
    Runner(bundle, engine)


def test_of_two_builds_whose_files_differ_the_first_stays(tmp_path: Path) -> None:
    """Two that ran at once, in every order of their steps: file and record always fit."""
    source = BuildInputs("graph", "weights", {"library": "9"})
    record = tmp_path / "step_0.json"
    for number, content in enumerate([b"from one", b"from another"]):
        made = tmp_path / f"made-{number}"
        made.write_bytes(content)
        found = commit(made, ".plan", record, source, 1.0)
        assert found == read_record(record)
        assert (tmp_path / found.file).read_bytes() == b"from one"
    other = replace(source, graph="another")
    made.write_bytes(b"from another graph")
    found = commit(made, ".plan", record, other, 1.0)
    assert (tmp_path / found.file).read_bytes() == b"from another graph"
    assert {path.suffix for path in tmp_path.glob("step_0.*")} == {".json", ".plan"}
    assert len(list(tmp_path.glob("step_0.*"))) == 2


def test_a_record_does_not_lead_out_of_its_folder(copy: Bundle, engine: Engine) -> None:
    record = record_of(copy, engine, copy.decoder)
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "file": f"../{content['file']}"}))
    assert missing(copy, engine) == {copy.decoder}


def test_other_options_are_another_build(built: Bundle) -> None:
    other = make_engine("openvino", "cpu", EngineOptions(threads=1))
    assert missing(built, other) == set(built.models)
    assert built_file(built, other, built.decoder) is None


def test_processes_get_the_options_of_the_engine(
    built: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[BuildJob] = []
    monkeypatch.setattr("engines.build.run_jobs", lambda _, todo, **__: jobs.extend(todo) or ())
    build_bundle(built, make_engine("openvino", "cpu", EngineOptions(threads=1)))
    assert {job.options for job in jobs} == {EngineOptions(threads=1)}


def test_a_record_that_is_no_record_counts_as_not_built(copy: Bundle, engine: Engine) -> None:
    record_of(copy, engine, copy.decoder).write_text("[]")
    assert missing(copy, engine) == {copy.decoder}


def test_an_engine_that_cannot_compile_in_memory_names_what_was_built(
    built: Bundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_engine("openvino", "cpu", EngineOptions(threads=1))

    def refuse(*_: object) -> None:
        msg = "run stepcarve build"
        raise EngineError(msg)

    monkeypatch.setattr(other, "load", refuse)
    with pytest.raises(EngineError, match=r"built for INFERENCE_NUM_THREADS '' \(here '1'\)"):
        Runner(built, other)


def test_a_plan_measures_what_was_built_and_estimates_the_rest(
    fresh: Bundle, copy: Bundle, engine: Engine
) -> None:
    assert not any(item.measured for item in plan_build(fresh, engine).items)
    place_of(copy, engine, copy.decoder).unlink()
    (item,) = plan_build(copy, engine).missing
    assert item.measured
    assert item.bytes > 1000
    estimates = {item.graph: item.bytes for item in plan_build(fresh, engine).items}
    assert 0.1 < estimates[copy.decoder] / item.bytes < 10, "of that order"


def test_a_plan_counts_processes() -> None:
    items = tuple(Item(str(n), False, seconds, 10, False) for n, seconds in enumerate([1, 3, 2]))
    plan = BuildPlan(Path("built"), (*items, Item("there", True, 9, 9, True)))
    assert [item.graph for item in plan.missing] == ["1", "2", "0"]
    assert (plan.seconds(1), plan.seconds(2), plan.bytes) == (6, 3, 30)


def test_a_damaged_bundle_is_not_built(fresh: Bundle, engine: Engine, tmp_path: Path) -> None:
    path = Path(shutil.copytree(fresh.path, tmp_path / "bundle"))
    (path / fresh.decoder).write_bytes(b"another")
    with pytest.raises(ExportError, match="is not the file that was exported"):
        build_bundle(Bundle.open(path), engine)


def test_a_graph_that_cannot_be_built_is_named(
    fresh: Bundle, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    broken = replace(
        job(fresh, engine, tmp_path / "out" / "x.json"), graph=tmp_path / "broken.onnx"
    )
    with pytest.raises(EngineError, match=r"openvino cannot load .*broken\.onnx"):
        build_apart(broken)
    assert not list((tmp_path / "out").iterdir())


def test_a_worker_of_another_kind_is_refused(fresh: Bundle, engine: Engine, tmp_path: Path) -> None:
    plain = job(fresh, engine, tmp_path / "x.json")
    other = replace(plain, source=replace(plain.source, key={**plain.source.key, "library": "old"}))
    with pytest.raises(EngineError, match=r"to be built for library 'old' .here 'openvino"):
        build_apart(other)


def test_a_builder_that_dies_is_named(
    fresh: Bundle, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif sys.orig_argv[2:4] == ['-m', 'engines.builder']:\n    os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"built condition\.onnx with openvino died .signal 11"):
        build_apart(job(fresh, engine, tmp_path / "x.json"))


def test_what_a_living_process_is_making_stays(tmp_path: Path) -> None:
    mine, gone = (tmp_path / f"{PARTIAL}{platform.node()}-{n}" for n in (os.getpid(), 2**30))
    elsewhere = tmp_path / f"{PARTIAL}another-machine-{2**30}"
    for path in (mine, gone, elsewhere):
        path.mkdir()
    remove_stale(tmp_path, PARTIAL)
    assert set(tmp_path.iterdir()) == {mine, elsewhere}


def test_fewer_than_one_process_is_refused(fresh: Bundle, engine: Engine) -> None:
    with pytest.raises(SearchError, match="--jobs is 0; give 1 or more"):
        build_bundle(fresh, engine, jobs=0)


@pytest.mark.slow
@pytest.mark.parametrize("where", list(Where))
def test_processes_here_or_on_a_cluster_build_the_same(
    fresh: Bundle, engine: Engine, tmp_path: Path, where: Where
) -> None:
    bundle = Bundle.open(Path(shutil.copytree(fresh.path, tmp_path / "bundle")))
    build_bundle(bundle, engine, jobs=2, where=where)
    assert not missing(bundle, engine)


def test_progress_is_told(copy: Bundle, engine: Engine) -> None:
    place_of(copy, engine, copy.decoder).unlink()
    told: list[tuple[str, float | None]] = []
    build_bundle(copy, engine, report=lambda text, share=None: told.append((text, share)))
    assert ("compile decode.onnx", 0.0) in told
    assert told[-1] == ("built decode.onnx", 1.0)
