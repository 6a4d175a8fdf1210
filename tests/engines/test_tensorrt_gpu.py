"""TensorRT on a GPU. None of this has run yet: there was no GPU with TensorRT where it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.base import EngineOptions, make_engine
from engines.build import build_bundle
from engines.built import built_file
from engines.parity import relative_l2
from engines.runner import Result, Runner
from engines.tensorrt import TensorRt, timing_cache
from exporter.bundle import Bundle
from exporter.exporting import export
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

pytestmark = pytest.mark.gpu

PROMPT = "a small red circle left on a grey field"
FLOAT32, FLOAT16 = 1e-3, 3e-2
"""Relative L2 errors of final latents."""


@pytest.fixture(scope="module")
def bundles(
    pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    """shapes-sd with DeepCache, so with caches, by dtype."""
    subnet = search(
        open_pipeline(pipelines("shapes-sd"), weights=False),
        "deepcache",
        Options(steps=10, interval=5, guidance=4.0),
    )
    folder = tmp_path_factory.mktemp("gpu")
    return {
        dtype: export(pipelines("shapes-sd"), subnet, folder / dtype, dtype=dtype)
        for dtype in ("float32", "float16", "bfloat16")
    }


@pytest.fixture(scope="module")
def expected(bundles: dict[str, Bundle]) -> Result:
    """By ONNX Runtime on the CPU in float32."""
    return Runner(bundles["float32"], make_engine("onnxruntime", "cpu")).run(PROMPT, seed=1)


def built(bundle: Bundle, name: str = "tensorrt", **options: object) -> TensorRt:
    asked = EngineOptions(**options)  # type: ignore[arg-type]
    engine = make_engine(name, "cuda", asked)
    assert isinstance(engine, TensorRt)
    build_bundle(bundle, engine)
    return engine


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", FLOAT32), ("float16", FLOAT16), ("bfloat16", 0.2)]
)
def test_plans_compute_what_the_graphs_do(
    bundles: dict[str, Bundle], expected: Result, dtype: str, tolerance: float
) -> None:
    """Proves the whole path on a GPU, twice in a row.

    Strongly typed builds of every graph, addresses, one arena for all contexts, caches written in
    place, the sampler's sums on the device, and no TF32 in float32.
    """
    runner = Runner(bundles[dtype], built(bundles[dtype]))
    for _ in range(2):
        assert relative_l2(runner.run(PROMPT, seed=1).latents, expected.latents) < tolerance


def test_a_recorded_trajectory_equals_its_calls_one_by_one(bundles: dict[str, Bundle]) -> None:
    """Proves that the whole loop is captured as one CUDA graph; the fallback would show.

    And that a replay sees a new seed, a new prompt and a new guidance scale.
    """
    bundle = bundles["float16"]
    recorded = Runner(bundle, built(bundle))
    single = Runner(bundle, built(bundle, cuda_graph=False))
    for seed, prompt, guidance in ((1, PROMPT, 4.0), (1, PROMPT, 4.0), (2, "a blue cross", 2.0)):
        found, wanted = (
            each.run(prompt, seed=seed, guidance=guidance) for each in (recorded, single)
        )
        np.testing.assert_array_equal(found.latents, wanted.latents)
    state = recorded._loop.__self__
    assert state._replay != state._walk


def test_a_plan_without_weights_is_small_and_takes_those_of_the_bundle(
    bundles: dict[str, Bundle], expected: Result
) -> None:
    """Proves STRIP_PLAN with REFIT_IDENTICAL.

    The refitter finds every weight by its name in the ONNX file, external data included, and the result
    is that of the whole plan.
    """
    bundle = bundles["float16"]
    whole, stripped = built(bundle), built(bundle, strip_weights=True)
    sizes = [file_of(bundle, each).stat().st_size for each in (whole, stripped)]
    assert sizes[1] < sizes[0] / 4
    found = Runner(bundle, stripped).run(PROMPT, seed=1)
    assert relative_l2(found.latents, expected.latents) < FLOAT16


def file_of(bundle: Bundle, engine: TensorRt) -> Path:
    """The plan of the first step graph."""
    found = built_file(bundle, engine, bundle.graphs[0])
    assert found is not None
    return found


def test_contexts_share_one_arena(bundles: dict[str, Bundle]) -> None:
    """Proves that contexts do not allocate activations of their own.

    The arena has the size of the largest plan's, and all contexts run in it.
    """
    bundle = bundles["float16"]
    engine = built(bundle)
    runner = Runner(bundle, engine)
    sizes = [each._engine.device_memory_size_v2 for each in runner._sessions.values()]
    assert engine.buffers.arena.size == max(sizes) > 0
    runner.run(PROMPT, seed=1)
    assert {each._placed for each in runner._sessions.values()} == {engine.buffers.arena.address}


def test_builds_leave_timings_for_the_next(
    bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that a timing cache of the library's own is written, and accepted by the next build."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = make_engine("tensorrt", "cuda")
    assert isinstance(engine, TensorRt)
    graph = bundles["float16"].path / bundles["float16"].graphs[-1]
    file = timing_cache(engine._trt.__version__, engine._gpu)
    engine.build(graph, tmp_path / "a.plan", lambda *_: None)
    size = file.stat().st_size
    engine.build(graph, tmp_path / "b.plan", lambda *_: None)
    assert file.stat().st_size == size > 0


def test_a_plan_made_on_the_cpu_runs_on_an_rtx_gpu(
    bundles: dict[str, Bundle], expected: Result
) -> None:
    """Proves that TensorRT-RTX plans built for a compute capability, without a GPU, run on one of it."""
    bundle = bundles["float16"]
    at_hand = make_engine("tensorrt-rtx", "cuda").key()
    asked = EngineOptions(compute_capability=at_hand["compute_capability"])
    build_bundle(bundle, make_engine("tensorrt-rtx", "cpu", asked))
    found = Runner(bundle, make_engine("tensorrt-rtx", "cuda")).run(PROMPT, seed=1)
    assert relative_l2(found.latents, expected.latents) < FLOAT16
