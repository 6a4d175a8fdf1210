"""ONNX Runtime on a GPU: what its sessions are bound to; what runs there is marked gpu."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from engines import onnxruntime_cuda
from engines.base import EngineOptions, make_engine
from engines.cuda import TorchBuffers
from engines.errors import EngineError
from engines.onnxruntime_cuda import CudaSession, OnnxRuntimeCuda
from engines.parity.measure import relative_l2
from engines.runner import Runner
from exporter.bundle import Bundle
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline


@pytest.fixture(scope="module")
def bundle(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    return make_bundle("learned-variance", search(opened, "full", Options(steps=3)))


class Binding:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[object, ...]] = {}

    def bind_input(self, name: str, *where: object) -> None:
        self.told[name] = where

    bind_output = bind_input


@pytest.fixture
def session(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> tuple[CudaSession, Binding]:
    path = bundle.path / bundle.decoder
    real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    binding = Binding()
    monkeypatch.setattr(real, "io_binding", lambda: binding)
    return CudaSession(real, path), binding


def test_sessions_are_bound_to_addresses_on_the_device(
    session: tuple[CudaSession, Binding], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, binding = session
    buffers = TorchBuffers("cpu")
    inputs, outputs = (
        {n: buffers.zeros(*form) for n, form in forms.items()}
        for forms in (made.inputs, made.outputs)
    )
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 3)
    made.bind(inputs, outputs)
    for name, tensor in {**inputs, **outputs}.items():
        form = {**made.inputs, **made.outputs}[name]
        assert binding.told[name] == ("cuda", 3, form[1], form[0], tensor.data_ptr())


def test_a_buffer_of_another_shape_is_refused(session: tuple[CudaSession, Binding]) -> None:
    made, _ = session
    wrong = {n: TorchBuffers("cpu").zeros((7,), form[1]) for n, form in made.inputs.items()}
    with pytest.raises(EngineError, match=r"but the buffer is float32 \[7\]"):
        made.bind(wrong, {})


def test_a_run_that_does_not_start_is_an_error_of_the_engine(
    session: tuple[CudaSession, Binding], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = session
    buffers = TorchBuffers("cpu")
    forms = {**made.inputs, **made.outputs}
    run = made.bind(*[{n: buffers.zeros(*form) for n, form in forms.items()}] * 2)
    with pytest.raises(EngineError, match=r"decode\.onnx did not run"):
        run()


def test_float32_on_the_gpu_is_float32_and_nothing_goes_to_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(onnxruntime_cuda, "probe", lambda _: None)
    monkeypatch.setattr(onnxruntime_cuda, "TorchBuffers", lambda *_, **__: TorchBuffers("cpu"))

    def open_session(_: object, options: object, **given: object) -> None:
        asked.extend(given["providers"])  # type: ignore[arg-type]
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"  # type: ignore[attr-defined]
        assert given["enable_fallback"] == 0
        msg = "there is no GPU here"
        raise RuntimeError(msg)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    with pytest.raises(EngineError, match="on CUDAExecutionProvider: there is no GPU here"):
        OnnxRuntimeCuda("cuda").load(bundle.path / bundle.decoder)
    ((provider, settings),) = asked
    assert provider == "CUDAExecutionProvider"
    assert settings == {"user_compute_stream": "0", "use_tf32": "0"}


def test_an_option_for_the_gpu_is_refused_on_the_cpu() -> None:
    with pytest.raises(EngineError, match="onnxruntime on cpu does not take --no-cuda-graph"):
        make_engine("onnxruntime", "cpu", EngineOptions(cuda_graph=False))


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_the_gpu_gives_what_the_cpu_gives_and_again(bundle: Bundle, cuda_graph: bool) -> None:
    """I/O binding on the device and, if asked, one CUDA graph over all calls, replayed at the third run."""
    on_cpu = Runner(bundle, make_engine("onnxruntime", "cpu")).run("7", seed=1).latents
    runner = Runner(
        bundle, make_engine("onnxruntime", "cuda", EngineOptions(cuda_graph=cuda_graph))
    )
    for _ in range(3):
        assert relative_l2(runner.run("7", seed=1).latents, on_cpu) < 1e-2
    assert not np.array_equal(runner.run("7", seed=2).latents, on_cpu)
