"""Bundles whose denoiser is not float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import relative_l2, verify
from engines.runner import Runner
from exporter.errors import ExportError
from exporter.exporting import export
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

PROMPT = "a small red circle left on a grey field"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        pytest.param("shapes-sd", PROMPT, marks=pytest.mark.slow),
        ("shapes-dit", "red circle"),
    ],
)
def test_float16_halves_the_weights_and_holds_parity(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str, prompt: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    subnet = search(opened, "random", Options(steps=8, keep=0.6, guidance=3.0))
    half, single = (
        export(pipelines(name), subnet, tmp_path / dtype, dtype=dtype)
        for dtype in ("float16", "float32")
    )
    sizes = [(bundle.path / "weights.bin").stat().st_size for bundle in (half, single)]
    params = subnet.topology.params
    # Less than all of it: what the timestep alone decides is a table, its weights are in neither.
    assert 0.85 * 2 * params < sizes[1] - sizes[0] <= 2 * params
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(half, [engine], pipelines(name), prompt=prompt)
    assert parity.passed, parity.failures
    worst = parity.rungs[-1].worst
    assert worst is not None
    assert worst.relative > 1e-5, "float16 rounds"
    assert worst.floor > 1e-5, "and so does PyTorch in float16"
    latents = [Runner(bundle, engine).run(prompt, seed=1).latents for bundle in (half, single)]
    assert relative_l2(*latents) < 3e-2
    assert {latent.dtype for latent in latents} == {np.dtype(np.float32)}


def test_bfloat16_is_written_and_refused_by_an_engine_without_kernels_for_it(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    subnet = search(opened, "full", Options(steps=2))
    bundle = export(pipelines("learned-variance"), subnet, tmp_path / "bundle", dtype="bfloat16")
    model = onnx.load(bundle.path / bundle.graphs[0], load_external_data=False)
    kinds = {i.data_type for i in model.graph.initializer if i.external_data}
    assert kinds == {onnx.TensorProto.BFLOAT16}
    with pytest.raises(EngineError, match=r"onnxruntime cannot load .*step_000\.onnx"):
        Runner(bundle, make_engine("onnxruntime", "cpu"))
    ports = [*model.graph.input, *model.graph.output]
    loop = {v.name: v.type.tensor_type.elem_type for v in ports}
    assert loop["sample"] == loop["noise_prediction"] == onnx.TensorProto.FLOAT


def test_an_unknown_dtype_is_refused(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    subnet = search(opened, "full", Options(steps=2))
    with pytest.raises(ExportError, match="unknown dtype 'int8'; choose one of float32, float16"):
        export(pipelines("learned-variance"), subnet, tmp_path / "bundle", dtype="int8")
