"""Costs in seconds: made-up ones by hand, and real ones of calls that could hardly differ more."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import kinds, latency
from engines.base import Session, make_engine
from engines.buffers import NumpyBuffers
from engines.errors import EngineError
from engines.kinds import engine_kind
from engines.latency import LatencyTable, Setting, Stopwatch, latency_table, read_seconds
from search.core.actions import Action
from search.core.program import Signature, plan_program
from search.core.subnet import Granularity, SubNet
from search.core.table import with_actions
from search.core.topology import PREDICTION
from search.methods.options import Options
from search.methods.registry import search
from search.methods.schedules import deepcache
from search.model.opening import open_pipeline
from tests.mixes import random_mix
from tests.toys import chain, hourglass, subnet

SETTING = Setting(
    denoiser="Toy",
    fingerprint="0" * 64,
    topology="1" * 64,
    latent_shape=(1, 2, 2),
    batch=1,
    guided=True,
    engine="onnxruntime",
    device="cpu",
    machine="abacus, 2 cores",
    versions={"onnxruntime": "1.0"},
)


class Counting:
    """ONNX Runtime that remembers what it loaded."""

    name, device, suffix = "onnxruntime", "cpu", None

    def __init__(self) -> None:
        self.loaded: list[Path] = []
        self._engine = make_engine("onnxruntime", "cpu")
        self.buffers = self._engine.buffers

    def load(self, graph: Path, built: Path | None = None) -> Session:
        self.loaded.append(graph)
        return self._engine.load(graph, built)


def by_targets(signature: Signature) -> float:
    """Made-up seconds: one per target that is computed."""
    return float(len(signature.computes))


def toy_table(**options: object) -> LatencyTable:
    return LatencyTable(SETTING, subnet(chain(), "RRR", "RRR"), by_targets, **options)


def whole_of(pipelines: Callable[[str], Path], name: str, granularity: Granularity) -> SubNet:
    opened = open_pipeline(pipelines(name), weights=False)
    return search(opened, "full", Options(steps=4, granularity=granularity))


def test_its_name_tells_engines_and_batches_apart() -> None:
    """A search that was made for one of them is not resumed for another."""
    table = toy_table()
    assert table.name == f"latency on {SETTING.engine} ({SETTING.device}), batch 1"
    table.setting = dataclasses.replace(SETTING, batch=4)
    assert table.name.endswith("batch 4")


def test_the_full_sampler_costs_one() -> None:
    assert toy_table()(subnet(chain(), "RRR", "RRR", "RRR")) == 1.0


def test_the_cost_is_the_sum_over_the_calls() -> None:
    """Calls of 4, 2 (block c and the head) and 0 seconds, of three full ones of 4."""
    found = subnet(chain(), "RRR", "ccR", "ccc")
    program = plan_program(found, 1)
    assert [len(program.signatures[c.signature].computes) for c in program.calls] == [4, 2]
    assert toy_table()(found) == pytest.approx((4 + 2) / (3 * 4))


def test_fewer_steps_are_counted_against_the_full_sampler() -> None:
    half = dataclasses.replace(subnet(chain(), "RRR", "RRR"), full_calls=4)
    assert toy_table()(half) == pytest.approx(0.5)


def test_forecasts_are_counted_against_the_full_sampler_too() -> None:
    table = LatencyTable(SETTING, subnet(chain(), "RRR", "RRR", "RRf"), by_targets)
    assert table(subnet(chain(), "RRR", "RRR", "RRf")) == pytest.approx((4 + 4 + 2) / (3 * 4))


def test_equal_signatures_are_measured_once() -> None:
    asked: list[Signature] = []

    def measure(signature: Signature) -> float:
        asked.append(signature)
        return by_targets(signature)

    table = LatencyTable(SETTING, subnet(chain(), "RRR"), measure)
    for rows in (("RRR", "ccR", "ccR", "RRR"), ("RRR", "ccR"), ("RRR", "cRR")):
        table(subnet(chain(), *rows))
    assert len(asked) == len(set(asked)) == len(table.seconds)


@pytest.mark.parametrize(
    "other",
    [
        subnet(hourglass(), "RRR"),
        dataclasses.replace(
            subnet(chain(), "RRR"),
            binding=dataclasses.replace(subnet(chain(), "RRR").binding, fingerprint="f" * 64),
        ),
    ],
)
def test_a_subnet_of_another_denoiser_is_refused(other: SubNet) -> None:
    with pytest.raises(EngineError, match="these latencies are of another denoiser"):
        toy_table()(other)


def test_json_gives_back_the_seconds(tmp_path: Path) -> None:
    table = toy_table()
    found = subnet(chain(), "RRR", "ccR", "cdR", "Rdd", "RRf")
    cost = table(found)
    table.save(tmp_path / "latencies.json")
    known = read_seconds(tmp_path / "latencies.json", SETTING)
    assert known == table.seconds

    def never(signature: Signature) -> float:
        raise AssertionError(signature)

    again = LatencyTable(SETTING, subnet(chain(), "RRR"), never, known)
    assert again(found) == cost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "openvino"}, "with engine 'onnxruntime', but here it is 'openvino'"),
        ({"device": "cuda"}, "with device 'cpu', but here it is 'cuda'"),
        ({"machine": "other"}, "with machine 'abacus, 2 cores', but here it is 'other'"),
        ({"versions": {}}, "with versions {'onnxruntime': '1.0'}, but here it is {}"),
        ({"latent_shape": (1, 4, 4)}, r"with latent shape \(1, 2, 2\), but here"),
        ({"fingerprint": "f" * 64}, "with fingerprint '000"),
    ],
)
def test_latencies_of_another_setting_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    toy_table().save(tmp_path / "latencies.json")
    with pytest.raises(EngineError, match=message):
        read_seconds(tmp_path / "latencies.json", dataclasses.replace(SETTING, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "stepcarve-subnet"}, "is not a table of latencies"),
        ({"schema": 9}, "has schema 9, but this stepcarve reads 4"),
        ({"schema": 2}, "has schema 2, but this stepcarve reads 4"),
        ({"calls": [{"computes": [PREDICTION]}]}, "is wrong or incomplete at 'reads'"),
        ({"setting": {}}, "is wrong or incomplete at 'latent_shape'"),
        (
            {
                "calls": [
                    {
                        "computes": [PREDICTION],
                        "reads": [],
                        "writes": [],
                        "predicts": True,
                        "seconds": 0,
                    }
                ]
            },
            "is wrong or incomplete at the seconds of a call, 0.0",
        ),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "latencies.json"
    toy_table().save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(EngineError, match=message):
        read_seconds(file, SETTING)


def test_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not numbers")
    with pytest.raises(EngineError, match="is not JSON"):
        read_seconds(tmp_path / "notes", SETTING)


def test_the_median_leaves_the_warm_up_out() -> None:
    now, lengths = 0.0, iter([100.0] * latency.WARM_UP + [3.0, 1.0, 2.0, 9.0, 8.0])

    def run() -> None:
        nonlocal now
        now += next(lengths)

    assert latency.median_seconds(run, clock=lambda: now) == 3.0


def test_short_runs_are_repeated_more_often() -> None:
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1

    latency.median_seconds(run, clock=lambda: 0.0)
    assert runs == latency.WARM_UP + latency.MOST_RUNS


@pytest.mark.slow
def test_a_shallow_call_costs_less_than_a_full_one(pipelines: Callable[[str], Path]) -> None:
    whole = whole_of(pipelines, "shapes-sd", Granularity.BRANCH)
    shallow = deepcache(whole, interval=4, branch=0)
    with latency_table(pipelines("shapes-sd"), whole, make_engine("onnxruntime", "cpu")) as table:
        assert table(shallow) < table(whole) == 1.0
    assert all(seconds > 0 for seconds in table.seconds.values())


def test_a_table_in_a_file_is_neither_measured_nor_traced_again(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = whole_of(pipelines, "three-levels", Granularity.STAGE)
    thin = with_actions(
        whole, lambda t, b: Action.REUSE if t and b else Action.RUN, method="by hand"
    )
    file, engine = tmp_path / "latencies.json", Counting()
    where = pipelines("three-levels")
    with latency_table(where, whole, engine, file=file) as table:
        cost = table(thin)
    distinct = {*plan_program(whole, 1).signatures, *plan_program(thin, 1).signatures}
    assert len(engine.loaded) == len(distinct)
    with latency_table(where, whole, engine, file=file) as table:
        assert table(thin) == cost
    assert len(engine.loaded) == len(distinct)


def test_what_was_measured_is_kept_when_the_search_fails(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = whole_of(pipelines, "three-levels", Granularity.STAGE)
    file = tmp_path / "latencies.json"

    def fail() -> None:
        with latency_table(pipelines("three-levels"), whole, Counting(), file=file) as table:
            table(whole)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert json.loads(file.read_text())["calls"]


class Queued(NumpyBuffers):
    """Buffers of a device: their calls are done once they are waited for."""

    on_host = False

    def __init__(self) -> None:
        self.made, self.asked, self.done = 0, 0, 0

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self.made += 1
        return super().zeros(shape, dtype)

    def wait(self) -> None:
        self.done = self.asked


class OnDevice(Counting):
    """Takes nothing but its own buffers, and returns from a call before it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers = Queued()

    def load(self, graph: Path, built: Path | None = None) -> Session:
        session = super().load(graph, built)
        bind = session.bind

        def on_device(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], None]:
            assert self.buffers.made == len(inputs) + len(outputs), "buffers are the engine's"
            run = bind(inputs, outputs)

            def enqueue() -> None:
                assert self.buffers.done == self.buffers.asked, "the last call was not waited for"
                self.buffers.asked += 1
                run()

            return enqueue

        session.bind = on_device  # type: ignore[method-assign]
        return session


def test_a_call_on_a_device_is_timed_until_it_is_done(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, engine = whole_of(pipelines, "three-levels", Granularity.STAGE), OnDevice()
    stopwatch = Stopwatch(pipelines("three-levels"), whole, engine, tmp_path)
    assert stopwatch.seconds(plan_program(whole, 1).signatures[0]) > 0
    assert engine.buffers.done == engine.buffers.asked > latency.WARM_UP


def test_an_engine_that_runs_built_files_only_builds_what_it_times(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, engine = whole_of(pipelines, "three-levels", Granularity.STAGE), Counting()
    engine.name, engine.suffix, built = "builds", ".plan", list[Path]()
    kind = dataclasses.replace(engine_kind("onnxruntime"), name="builds", needs_build=True)
    monkeypatch.setattr(kinds, "ENGINES", (kind,))

    def build(graph: Path, out: Path, report: object) -> None:
        built.append(out)
        out.write_bytes(b"plan")

    engine.build = build
    stopwatch = Stopwatch(pipelines("three-levels"), whole, engine, tmp_path)
    assert stopwatch.seconds(plan_program(whole, 1).signatures[0]) > 0
    (file,) = built
    assert file.suffix == ".plan"
    assert not file.exists(), "it goes when it has been timed"


def test_nothing_is_left_behind(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole, engine = whole_of(pipelines, "three-levels", Granularity.STAGE), Counting()
    with latency_table(pipelines("three-levels"), whole, engine) as table:
        table(whole)
        assert engine.loaded[0].parent.parent == tmp_path
        assert not engine.loaded[0].exists(), "a graph goes when it has been timed"
    assert list(tmp_path.iterdir()) == []


def test_calls_with_residuals_are_measured(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    mixed = random_mix(whole_of(pipelines, "three-levels", Granularity.LAYER), seed=5)
    assert any(Action.DELTA in row for row in mixed.actions)
    stopwatch = Stopwatch(
        pipelines("three-levels"), mixed, make_engine("onnxruntime", "cpu"), tmp_path
    )
    assert all(stopwatch.seconds(s) > 0 for s in plan_program(mixed, 1).signatures)


def test_calls_are_measured_for_a_batch_and_kept_for_that_batch_alone(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = whole_of(pipelines, "three-levels", Granularity.STAGE)
    place, file, sizes = pipelines("three-levels"), tmp_path / "latencies.json", set[int]()
    engine = Counting()
    load = engine.load

    def watching(graph: Path, built: Path | None = None) -> Session:
        session = load(graph, built)
        sizes.add(session.inputs["sample"][0][0])
        return session

    engine.load = watching  # type: ignore[method-assign]
    with latency_table(place, whole, engine, batch=3, file=file) as table:
        table(whole)
    assert sizes == {3}
    message = "were measured with batch 3, but here it is 1"
    with pytest.raises(EngineError, match=message), latency_table(place, whole, engine, file=file):
        pass
