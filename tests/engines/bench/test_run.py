"""Processes that take turns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from engines.bench import run, worker
from engines.bench.records import Contender, ContenderKind
from engines.bench.run import BenchSettings, bench, in_turn
from engines.bench.show import tables, write_bench
from engines.errors import EngineError
from engines.memory import Memory
from exporter.bundle import Bundle
from exporter.shape import Shape
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.engines.bench.stand_ins import cannot, dies, holds, loads, takes

SHAPE = Shape(64, 64, 1)
EAGER = Contender("eager", ContenderKind.EAGER, Path("b"), SHAPE, True, "cpu", Path("p"), "float32")
ENGINE = replace(EAGER, name="engine", kind=ContenderKind.ENGINE, engine="onnxruntime")


def quiet(text: str, share: float | None = None) -> None:
    del text, share


@pytest.fixture
def stand_ins() -> object:
    with mock.patch.multiple(worker, load=loads, warm_up=holds, measure=takes):
        yield


@pytest.mark.usefixtures("stand_ins")
def test_every_row_has_a_process_of_its_own_and_a_sample_per_round() -> None:
    told: list[str] = []
    rows = in_turn(
        [EAGER, ENGINE], repeats=2, warmup=1, report=lambda text, _share: told.append(text)
    )
    assert [len(row.samples) for row in rows] == [2, 2]
    assert len({row.memory for row in rows} | {Memory(os.getpid(), 1)}) == 3
    assert told == [
        "load eager", "load engine", "warm-up 1: eager", "warm-up 1: engine", "round 1: eager",
        "round 1: engine", "round 2: eager", "round 2: engine",
    ]  # fmt: skip


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("load", "note"),
    [(cannot, "there is no eager here"), (dies, "its process was killed, probably because memory")],
)
def test_what_only_compares_may_fail_and_says_why(
    load: Callable[[Contender], float], note: str
) -> None:
    with mock.patch.object(worker, "load", load):
        (row,) = in_turn([EAGER], repeats=1, warmup=1, report=quiet)
    assert row.note.startswith(note)
    assert not row.samples


@pytest.mark.usefixtures("stand_ins")
def test_an_engine_may_not_fail() -> None:
    with (
        mock.patch.object(worker, "load", cannot),
        pytest.raises(EngineError, match="the row 'engine' cannot be measured: there is no engine"),
    ):
        in_turn([ENGINE], repeats=1, warmup=1, report=quiet)


def test_a_package_that_is_not_there_is_named() -> None:
    with mock.patch.object(run, "installed", return_value={}):
        (row,) = in_turn(
            [replace(EAGER, kind=ContenderKind.DEEPCACHE)], repeats=1, warmup=1, report=quiet
        )
    assert row.note == "not installed; pip install DeepCache"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repeats": 0}, "--repeats is 0; give 1 or more"),
        ({"warmup": 0}, "--warmup is 0; give 1 or more"),
        ({"engines": ()}, "no engine is named"),
    ],
)
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        BenchSettings(**wrong)


@pytest.mark.slow
def test_a_bundle_beside_its_full_sampler(
    pipelines: Callable[[str], Path],
    make_bundle: Callable[[str, SubNet], Bundle],
    tmp_path: Path,
) -> None:
    path = pipelines("three-levels")
    subnet = search(open_pipeline(path, weights=False), "deepcache", Options(steps=6, interval=3))
    found = bench(
        make_bundle("three-levels", subnet),
        path,
        BenchSettings(against=(), repeats=2),
        out=tmp_path,
    )
    full, mine = found.measured
    assert (full.contender.name, mine.contender.name) == ("onnxruntime", "onnxruntime + SubNet")
    assert mine.memory is not None
    assert mine.memory.own > 0
    assert mine.load_seconds > 0
    assert (found.graphs, found.steps) == ((0, 1, 1, 0, 1, 1), (0, 1, 2, 3, 4, 5))
    assert found.macs[0] == 1 > found.macs[1]
    write_bench(found, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert told["rows"][1]["speedup_over_full"]["median"] > 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "bench.json", "bench.png", "bench.svg",
    }  # fmt: skip
    rows, calls = tables(found)
    assert rows.row_count == 2
    assert [column.header for column in calls.columns] == [
        "graph", "calls", "MACs", "onnxruntime + SubNet",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "asked", "device", "threads"),
    [
        ("3", None, "cpu", "3"),
        ("3", 1, "cpu", "1"),
        ("", None, "cpu", "each row's own choice"),
        ("3", None, "cuda", "each row's own choice"),
    ],
)
def test_all_rows_have_as_many_threads(
    monkeypatch: pytest.MonkeyPatch, variable: str, asked: int | None, device: str, threads: str
) -> None:
    """PyTorch alone would look at OMP_NUM_THREADS."""
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(run, "describe", lambda _: "a machine")
    settings = BenchSettings(engines=("onnxruntime",), device=device, threads=asked)
    assert run._environment(settings)["threads"] == threads
