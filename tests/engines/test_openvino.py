"""OpenVINO: the same values as the reference, in place, in the precision that was asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError
from engines.parity import verify
from engines.parity.measure import relative_l2
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.exporting import export
from search.core.subnet import Granularity
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

MakeBundle = Callable[..., Bundle]
Find = Callable[[str], Path]
FLOAT32 = 1e-4
OPTIONS = Options(steps=6, keep=0.6, guidance=3.5, granularity=Granularity.LAYER)


@pytest.fixture(scope="module")
def bundle(pipelines: Find, make_bundle: MakeBundle) -> Bundle:
    """Small, and every engine runs it in a second."""
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    return make_bundle("learned-variance", search(opened, "random", OPTIONS))


def latents(bundle: Bundle, engine: str, **options: object) -> np.ndarray:
    made = make_engine(engine, "cpu", EngineOptions(**options))
    return Runner(bundle, made).run(bundle.default_prompt, seed=1).latents


def test_parity_holds_in_float32(pipelines: Find, bundle: Bundle) -> None:
    engine = make_engine("openvino", "cpu")
    path, prompt = pipelines("learned-variance"), bundle.default_prompt
    parity, _ = verify(bundle, [engine], path, prompt=prompt)
    assert parity.passed, parity.failures
    assert "openvino on cpu" in [rung.name for rung in parity.engines]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_bundles_run(
    pipelines: Find, tmp_path: Path, bundle: Bundle, dtype: str
) -> None:
    half = export(pipelines("learned-variance"), bundle.subnet, tmp_path / "half", dtype=dtype)
    error = relative_l2(latents(half, "openvino"), latents(bundle, "onnxruntime"))
    assert 1e-5 < error < 5e-2


def test_a_hint_of_lower_precision_shows_or_is_refused(bundle: Bundle) -> None:
    exact = latents(bundle, "onnxruntime")
    assert relative_l2(latents(bundle, "openvino"), exact) < FLOAT32
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        hinted = latents(bundle, "openvino", precision="bfloat16")
        assert relative_l2(hinted, exact) > FLOAT32
    else:
        with pytest.raises(EngineError, match="does not compute in bfloat16"):
            latents(bundle, "openvino", precision="bfloat16")


def test_a_precision_it_does_not_know_is_refused() -> None:
    with pytest.raises(
        EngineError, match="unknown precision 'int3'; choose one of float32, float16"
    ):
        make_engine("openvino", "cpu", EngineOptions(precision="int3"))


def test_a_precision_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openvino.Core.get_property", lambda *_: ["FP32", "BF16"])
    with pytest.raises(
        EngineError, match=r"not compute in float16 .*use --precision float32 or bfl"
    ):
        make_engine("openvino", "cpu", EngineOptions(precision="float16"))


def test_another_device_is_refused() -> None:
    with pytest.raises(EngineError, match="openvino runs on cpu, not on 'cuda'"):
        make_engine("openvino", "cuda")


def test_results_land_in_the_buffers_that_were_bound(bundle: Bundle) -> None:
    session = make_engine("openvino", "cpu").load(bundle.path / bundle.conditioner)
    inputs = {name: np.zeros(*form) for name, form in session.inputs.items()}
    outputs = {name: np.full(*form[:1], 7, form[1]) for name, form in session.outputs.items()}
    run = session.bind(inputs, outputs)
    run()
    (label,), (made,) = inputs.values(), outputs.values()
    before = made.copy()
    label[...] = 1
    run()
    assert not np.array_equal(before, made), "a changed input counts without binding again"


def test_a_buffer_of_another_shape_is_refused(bundle: Bundle) -> None:
    session = make_engine("openvino", "cpu").load(bundle.path / bundle.conditioner)
    wrong = {name: np.zeros((9, *form[0]), form[1]) for name, form in session.inputs.items()}
    with pytest.raises(EngineError, match="but the buffer is"):
        session.bind(wrong, {})


def test_what_is_no_graph_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "step.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(EngineError, match=r"openvino cannot load .*step.onnx") as caught:
        make_engine("openvino", "cpu").load(tmp_path / "step.onnx")
    assert "\n" not in str(caught.value)


def test_a_built_file_gives_the_same_values(bundle: Bundle, tmp_path: Path) -> None:
    engine = make_engine("openvino", "cpu")
    graph, out = bundle.path / bundle.graphs[0], tmp_path / "step.blob"
    engine.build(graph, out, lambda *_: None)
    found = []
    for session in (engine.load(graph), engine.load(graph, out)):
        rng = np.random.default_rng(0)
        inputs = {
            n: np.asarray(rng.standard_normal(shape)).astype(dtype)
            for n, (shape, dtype) in session.inputs.items()
        }
        outputs = {name: np.zeros(*form) for name, form in session.outputs.items()}
        session.bind(inputs, outputs)()
        found.append(outputs)
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(np.all(value == 0) for value in found[0].values())


def test_graphs_that_are_loaded_again_give_the_same(bundle: Bundle) -> None:
    """With one resident graph, every change of the graph loads one."""
    expected = latents(bundle, "openvino")
    runner = Runner(bundle, make_engine("openvino", "cpu", EngineOptions(resident=1)))
    for _ in range(2):
        assert np.array_equal(runner.run(bundle.default_prompt, seed=1).latents, expected)


def test_nothing_stays_loaded_for_a_runner_that_is_gone(bundle: Bundle) -> None:
    engine: Any = make_engine("openvino", "cpu")
    runner = Runner(bundle, engine)
    assert engine._resident._held
    del runner
    gc.collect()
    assert not engine._resident._held


def test_a_binding_that_is_gone_keeps_no_request(bundle: Bundle) -> None:
    engine: Any = make_engine("openvino", "cpu")
    session = engine.load(bundle.path / bundle.graphs[0])
    inputs, outputs = (
        {name: np.zeros(*form) for name, form in forms.items()}
        for forms in (session.inputs, session.outputs)
    )
    calls = [session.bind(inputs, outputs) for _ in range(3)]
    [compiled] = engine._resident._held.values()
    assert len(compiled.requests) == 3
    del calls[1:]
    gc.collect()
    assert len(compiled.requests) == 1


def test_a_damaged_built_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "step.blob").write_bytes(b"damaged" * 100)
    with pytest.raises(EngineError, match=r"openvino cannot load .*step.blob.*build it again"):
        make_engine("openvino", "cpu").load(bundle.path / bundle.graphs[0], tmp_path / "step.blob")
