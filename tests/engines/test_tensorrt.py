"""What our code asks of TensorRT, told to a stand-in: it is not installed here, and needs a GPU."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import cuda
from engines.base import DEFAULTS, EngineOptions, make_engine
from engines.builder import BuildJob, build_here
from engines.built import record_of, source_of
from engines.cuda import Device, TorchBuffers
from engines.errors import EngineError
from engines.plans import BuildProgress, PlanOptions, build_plan
from engines.runner import Runner
from engines.tensorrt import TensorRt, TensorRtSession, timing_cache
from exporter.bundle import Bundle
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.engines import fake_tensorrt as fake

GPU = Device("GeForce RTX 4090", "8.9", "580.65.06", "13.0")
GRAPH = "input x FLOAT 2 3\ninput old BF16 5\noutput y FLOAT 2 3\noutput new BF16 5\nmemory 1000\n"


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(cuda, "find_device", lambda: GPU)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    fake.calls.clear()
    fake.faults.clear()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "step_000.onnx"
    path.write_text(GRAPH)
    return path


def engine(**options: object) -> TensorRt:
    made = TensorRt("cuda", EngineOptions(**options))  # type: ignore[arg-type]
    made.__dict__["buffers"] = TorchBuffers("cpu")
    return made


def built(graph: Path, engine: TensorRt) -> Path:
    out = graph.with_suffix(".plan")
    engine.build(graph, out, lambda *_: None)
    return out


def asked(name: str) -> list[object]:
    return [call[1] for call in fake.calls if call[0] == name]


@pytest.mark.parametrize(("version", "flags"), [("10.14.1.48", 1 << 3), ("11.4.0.106", 0)])
def test_networks_are_strongly_typed(graph: Path, version: str, flags: int) -> None:
    library = fake.of_version(version)
    build_plan(library, graph, graph.with_suffix(".plan"), PlanOptions(), lambda *_: None)
    assert asked("create_network") == [flags]


@pytest.mark.parametrize("version", ["10.12.0.36", "10.13.3.9"])
def test_a_version_without_attention_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    library = fake.of_version(version)
    assert not hasattr(library, "IAttentionInputLayer")
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    with pytest.raises(
        EngineError, match=rf"this is tensorrt {version}, .* need 10\.14 or newer; pip install"
    ):
        make_engine("tensorrt", "cuda")


def test_a_missing_library_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        EngineError, match=r"tensorrt is not installed .*pip install \"tensorrt>=11"
    ):
        make_engine("tensorrt", "cuda")


def test_another_device_is_refused() -> None:
    with pytest.raises(
        EngineError, match=r"tensorrt runs on cuda, not on 'cpu'; give --device cuda"
    ):
        make_engine("tensorrt", "cpu")


def test_options_of_other_engines_are_refused() -> None:
    with pytest.raises(EngineError, match="tensorrt on cuda does not take --threads"):
        make_engine("tensorrt", "cuda", EngineOptions(threads=2))


def test_without_a_gpu_there_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="there is no CUDA device that torch can use"):
        make_engine("tensorrt", "cuda")


@pytest.mark.parametrize(
    "options",
    [{"optimization_level": 5}, {"workspace": 512}, {"strip_weights": True}],
)
def test_the_key_changes_with_what_changes_plans(options: dict[str, object]) -> None:
    assert engine().key() != engine(**options).key()
    assert engine().key() == engine(cuda_graph=False).key()


@pytest.mark.parametrize("field", ["name", "capability", "driver", "cuda"])
def test_the_key_and_the_timings_are_of_one_gpu_and_driver(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    before = engine().key()
    other = Device(**{**vars(GPU), field: "9.9"})
    monkeypatch.setattr(cuda, "find_device", lambda: other)
    assert engine().key() != before
    if field != "cuda":
        assert timing_cache("11", GPU) != timing_cache("11", other)


def test_options_reach_the_builder(graph: Path) -> None:
    built(graph, engine(optimization_level=5, workspace=512, strip_weights=True))
    config = fake.calls[-1][2]
    assert config.builder_optimization_level == 5
    assert config.pools == {fake.MemoryPoolType.WORKSPACE: 512 * 2**20}
    assert config.flags == {fake.BuilderFlag.STRIP_PLAN, fake.BuilderFlag.REFIT_IDENTICAL}


def test_float32_is_not_rounded_and_attentions_may_be_decomposed(graph: Path) -> None:
    built(graph, engine())
    network, config = fake.calls[-1][1:]
    assert config.flags == set()
    assert network.layers[1].attention.decomposable


def test_builds_share_their_timings(graph: Path) -> None:
    file = timing_cache(fake.__version__, GPU)
    for timings in (b"timed;", b"timed;timed;timed;"):
        # The second build starts from those of the first, and finds them on disk once more.
        built(graph, engine())
        assert file.read_bytes() == timings


def test_timings_of_another_gpu_are_not_used(graph: Path) -> None:
    file = timing_cache(fake.__version__, GPU)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of another GPU;")
    built(graph, engine())
    assert fake.calls[-1][2].cache.content.startswith(b"timed;")


@pytest.mark.parametrize(
    ("fault", "words"),
    [("parse", "an unknown operator"), ("build", "no kernel")],
)
def test_what_cannot_be_built_is_one_sentence_and_leaves_no_file(
    graph: Path, fault: str, words: str
) -> None:
    fake.faults.add(fault)
    with pytest.raises(
        EngineError, match=rf"11\.4\.0 cannot build .*step_000\.onnx': {words}; use"
    ):
        built(graph, engine())
    assert not graph.with_suffix(".plan").exists()


def test_a_build_reports_shares_and_stops_when_it_is_told(graph: Path) -> None:
    told: list[tuple[str, float]] = []
    out = graph.with_suffix(".plan")
    build_plan(fake, graph, out, PlanOptions(), lambda text, share: told.append((text, share)))
    assert told == [("building", 0.5), ("building", 1.0)]


def test_progress_of_phases_within_phases_is_one_share() -> None:
    shares: list[float] = []
    progress = BuildProgress(lambda _, share: shares.append(share))
    progress.begin("all", 4)
    progress.advance("all", 0)
    progress.begin("part", 2)
    assert progress.advance("part", 0)
    progress.end("part")
    progress.stop()
    assert not progress.advance("all", 1)
    assert shares == [0.25, 0.375]


def test_small_steps_are_not_told_one_by_one() -> None:
    shares: list[float] = []
    progress = BuildProgress(lambda _, share: shares.append(share))
    for _ in range(2):
        progress.begin("all", 1000)
        for step in range(1000):
            progress.advance("all", step)
        progress.end("all")
    assert len(shares) <= 200
    assert shares == sorted(shares[: len(shares) // 2]) * 2


def test_a_session_runs_from_and_into_the_buffers(graph: Path) -> None:
    made = engine()
    session = made.load(graph, built(graph, made))
    assert session.inputs == {"x": ((2, 3), np.dtype("f4")), "old": ((5,), np.dtype("bfloat16"))}
    buffers = {n: made.buffers.zeros(*f) for n, f in {**session.inputs, **session.outputs}.items()}
    run = session.bind(buffers, buffers)
    made.buffers.write(buffers["x"], np.arange(6.0).reshape(2, 3))
    made.buffers.write(buffers["old"], np.arange(5.0))
    run()
    np.testing.assert_array_equal(made.buffers.host(buffers["y"]), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(made.buffers.host(buffers["new"]).astype("f4"), np.arange(5.0))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("INT8", "int8"), ("UINT8", "uint8"), ("FP8", "float8_e4m3fn"), ("BOOL", "bool")],
)
def test_every_type_of_number_has_buffers(graph: Path, kind: str, dtype: str) -> None:
    graph.write_text(f"input x {kind} 4\noutput y {kind} 4\nmemory 10\n")
    made = engine()
    session = made.load(graph, built(graph, made))
    assert session.inputs["x"][1].name == dtype
    buffers = {name: made.buffers.zeros(*session.inputs["x"]) for name in "xy"}
    run = session.bind(buffers, buffers)
    value = np.array([0, 1, 1, 0]).astype(session.inputs["x"][1])
    made.buffers.write(buffers["x"], value)
    run()
    np.testing.assert_array_equal(made.buffers.host(buffers["y"]), value)


def test_a_type_of_half_bytes_is_refused_in_a_sentence(graph: Path) -> None:
    graph.write_text("input x FP4 4\noutput y FP4 4\nmemory 10\n")
    made = engine()
    with pytest.raises(
        EngineError, match=r"step_000\.onnx has 'x' as FP4, which stepcarve has no buf"
    ):
        made.load(graph, built(graph, made))


def test_plans_share_an_arena_of_the_largest_size(graph: Path) -> None:
    made = engine()
    small = made.load(graph, built(graph, made))
    graph.write_text(GRAPH.replace("1000", "5000"))
    large = made.load(graph, built(graph, made))
    for session in (small, large, small):
        bound(session, made.buffers)()
    assert asked("set_device_memory") == [5000, 5000]


def test_an_arena_that_grew_is_given_to_plans_loaded_before(graph: Path) -> None:
    made = engine()
    small = made.load(graph, built(graph, made))
    run = bound(small, made.buffers)
    run()
    graph.write_text(GRAPH.replace("1000", "5000000"))
    made.load(graph, built(graph, made))
    run()
    assert asked("set_device_memory") == [1000, 5000000]


def bound(session: TensorRtSession, buffers: TorchBuffers) -> Callable[[], None]:
    """The session on buffers that live as long as what is returned."""
    made = {n: buffers.zeros(*f) for n, f in {**session.inputs, **session.outputs}.items()}
    run = session.bind(made, made)
    return lambda: run() if made else None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda b: {**b, "x": b["x"].T}, r"takes 'x' as float32 \[2, 3\] .* is float32 \[3, 2\]"),
        (lambda b: {**b, "x": torch.zeros(7)[1:].view(2, 3)}, "at a multiple of 256 bytes"),
        (lambda b: {n: v for n, v in b.items() if n != "x"}, "has 'x', but no buffer was given"),
        (lambda b: {**b, "y": b["x"]}, "would write 'y' where 'x' lies"),
    ],
)
def test_wrong_buffers_are_refused(graph: Path, wrong, words: str) -> None:
    made = engine()
    session = made.load(graph, built(graph, made))
    right = {n: made.buffers.zeros(*f) for n, f in {**session.inputs, **session.outputs}.items()}
    session.bind(right, right)
    with pytest.raises(EngineError, match=words):
        session.bind(wrong(right), wrong(right))


def test_a_plan_that_does_not_start_is_an_error(graph: Path) -> None:
    made = engine()
    run = bound(made.load(graph, built(graph, made)), made.buffers)
    fake.faults.add("execute")
    with pytest.raises(EngineError, match=r"the plan of step_000\.onnx did not start"):
        run()


def test_a_stripped_plan_takes_the_weights_of_its_graph(graph: Path) -> None:
    made = engine(strip_weights=True)
    made.load(graph, built(graph, made))
    assert asked("refit_from_file") == [str(graph)]
    fake.faults.add("refit")
    with pytest.raises(EngineError, match="does not take the weights of that graph"):
        made.load(graph, built(graph, made))


def test_a_whole_plan_is_not_refitted(graph: Path) -> None:
    made = engine()
    made.load(graph, built(graph, made))
    assert asked("refit_from_file") == []


def test_a_plan_that_does_not_load_says_why(graph: Path) -> None:
    made = engine()
    fake.faults.add("deserialize")
    with pytest.raises(EngineError, match=r"cannot load .*step_000\.plan': .*of another version"):
        made.load(graph, built(graph, made))


def test_a_graph_that_was_not_built_is_refused(graph: Path) -> None:
    with pytest.raises(EngineError, match="run stepcarve build --engine tensorrt first"):
        make_engine("tensorrt", "cuda", DEFAULTS).load(graph)


def test_a_bundle_is_built_loaded_and_run(
    pipelines: Callable[[str], Path],
    make_bundle: Callable[[str, SubNet], Bundle],
    tmp_path: Path,
) -> None:
    """Everything but the library and the device: plans, contexts, addresses, arena, buffers, runner."""
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    subnet = search(opened, "random", Options(steps=6, keep=0.48))
    shutil.copytree(make_bundle("learned-variance", subnet).path, tmp_path / "bundle")
    bundle, made = Bundle.open(tmp_path / "bundle"), engine()
    for graph in bundle.models:
        record, source = record_of(bundle, made, graph), source_of(bundle, made, graph)
        record.parent.mkdir(parents=True, exist_ok=True)
        job = BuildJob("tensorrt", "cuda", DEFAULTS, bundle.path / graph, ".plan", record, source)
        build_here(job, lambda *_: None)
    expected = Runner(bundle, make_engine("onnxruntime", "cpu")).run("7", seed=4)
    runner = Runner(bundle, made)
    for _ in range(2):
        found = runner.run("7", seed=4)
        np.testing.assert_allclose(found.latents, expected.latents, rtol=1e-4, atol=1e-5)
        assert np.abs(found.images.astype(int) - expected.images).max() <= 1
