"""Buffers as torch tensors: on the CPU what is the same there, on CUDA (marked gpu) the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from engines import cuda
from engines.base import DEFAULTS, Form, Session, make_engine
from engines.buffers import Buffers, NumpyBuffers
from engines.cuda import ALIGNMENT, TorchBuffers
from engines.errors import EngineError, NotFiniteError, NotRecordedError
from engines.machine import describe
from engines.onnxruntime import OnnxRuntime
from engines.runner import Runner
from exporter.bundle import Bundle
from search.core.precision import ALL, Precision
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def buffers(request: pytest.FixtureRequest) -> TorchBuffers:
    return TorchBuffers(request.param)


class OnTorch(OnnxRuntime):
    """ONNX Runtime on the CPU with its values in torch tensors, as engines on a GPU have them."""

    def __init__(self) -> None:
        super().__init__("cpu", DEFAULTS)
        self.buffers = TorchBuffers("cpu")
        self.recorded = 0
        self.buffers.record = self._record

    def _record(self, walk: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.recorded += 1
            walk()

        return replay

    def load(self, graph: Path, built: Path | None = None) -> Session:
        return TorchSession(super().load(graph, built))


class TorchSession:
    """A session that is given torch tensors where the inner one takes arrays."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner
        self.inputs: Mapping[str, Form] = inner.inputs
        self.outputs: Mapping[str, Form] = inner.outputs

    def bind(
        self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]
    ) -> Callable[[], None]:
        for buffer in (*inputs.values(), *outputs.values()):
            assert buffer.data_ptr() % ALIGNMENT == 0
        as_arrays = ({n: t.numpy() for n, t in each.items()} for each in (inputs, outputs))
        return self._inner.bind(*as_arrays)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, np.dtype(np.int64), np.dtype(np.float16)])
@pytest.mark.parametrize("shape", [(), (3,), (5, 2, 3)])
def test_values_come_back_as_they_were_written(
    buffers: TorchBuffers, shape: tuple[int, ...], dtype: np.dtype
) -> None:
    buffer = buffers.zeros(shape, dtype)
    assert buffer.data_ptr() % ALIGNMENT == 0
    assert not buffers.host(buffer).astype("f8").any()
    value = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    buffers.write(buffer, value)
    found = buffers.host(buffer)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, value)


def test_rows_of_a_table_begin_where_engines_can_take_them(buffers: TorchBuffers) -> None:
    table = buffers.table((4, 3, 5), FLOAT32)
    rows = [table[number] for number in range(4)]
    assert all(row.is_contiguous() and row.data_ptr() % ALIGNMENT == 0 for row in rows)
    buffers.write(table, np.arange(60.0).reshape(4, 3, 5))
    np.testing.assert_array_equal(buffers.host(rows[2]), np.arange(30.0, 45.0).reshape(3, 5))


def test_rows_of_a_flat_table_do_too(buffers: TorchBuffers) -> None:
    table = buffers.table((4,), FLOAT32)
    assert all(table[number, ...].data_ptr() % ALIGNMENT == 0 for number in range(4))


def test_what_an_engine_wrote_in_one_piece_is_given_rows(buffers: TorchBuffers) -> None:
    loose, fitting = buffers.zeros((3, 5), FLOAT32), buffers.zeros((3, 64), FLOAT32)
    assert buffers.rows(fitting) is fitting
    rows = buffers.rows(loose)
    buffers.write(loose, np.arange(15.0).reshape(3, 5))
    buffers.write(rows, loose)
    np.testing.assert_array_equal(buffers.host(rows), buffers.host(loose))
    assert rows[1, ...].data_ptr() % ALIGNMENT == 0


@pytest.mark.parametrize("device", DEVICES)
def test_sums_equal_those_of_numpy(device: str) -> None:
    random = np.random.default_rng(1)
    row, terms = random.normal(size=3).astype("f4"), random.normal(size=(5, 4, 6)).astype("f4")
    found = []
    for each in (NumpyBuffers(), TorchBuffers(device)):
        table, out = each.table(terms.shape, FLOAT32), each.zeros((4, 6), FLOAT32)
        each.write(table, terms)
        weights = each.zeros(row.shape, FLOAT32)
        combine = each.combination(weights, table, out)
        each.write(weights, row)  # the sum has the values of its call
        combine()
        found.append(each.host(out))
    np.testing.assert_allclose(found[0], np.tensordot(row, terms[:3], 1), rtol=1e-5)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_seen(buffers: TorchBuffers, value: float) -> None:
    for each in (buffers, NumpyBuffers()):
        buffer = each.zeros((3,), FLOAT32)
        assert each.finite(buffer)
        each.write(buffer, [0.0, value, 0.0])
        assert not each.finite(buffer)


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Replaces CUDA graphs by something that counts; `fail` in it makes the recording fail."""
    seen = {"replays": 0}

    class Graph:
        def replay(self) -> None:
            seen["replays"] += 1

    class Recording(nullcontext):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()

        def __enter__(self) -> None:
            if "fail" in seen:
                msg = "operation not permitted when stream is capturing"
                raise RuntimeError(msg)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return seen


def recorded(walk: Callable[[], None]) -> Callable[[], None]:
    return cuda._Recorded(walk, None, cuda.Arena(torch.device("cpu"))).run


def test_a_walk_is_recorded_at_its_second_run_and_replayed_from_then_on(
    fake_graphs: dict[str, int],
) -> None:
    walks: list[int] = []
    run = recorded(lambda: walks.append(1))
    for expected in ((1, 0), (2, 1), (2, 2)):
        run()
        assert (len(walks), fake_graphs["replays"]) == expected


def test_what_cannot_be_recorded_is_said_and_walked(
    fake_graphs: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_graphs["fail"] = 1
    said: list[str] = []
    monkeypatch.setattr(cuda.logger, "handle", lambda record: said.append(record.getMessage()))
    walks: list[int] = []
    run = recorded(lambda: walks.append(1))
    for _ in range(3):
        run()
    assert len(walks) == 3
    (words,) = said
    assert words.startswith("the calls cannot be recorded as one CUDA graph (operation not perm")


class Captured(nullcontext):
    """A recording whose end fails too, as torch's does after an error within it."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __exit__(self, *_: object) -> None:
        msg = "the capture was invalidated"
        raise RuntimeError(msg)


@pytest.mark.parametrize("recording", [nullcontext, Captured])
@pytest.mark.parametrize("error", [EngineError, NotFiniteError])
def test_our_own_errors_are_not_taken_for_what_cannot_be_recorded(
    fake_graphs: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    recording: type,
    error: type[EngineError],
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: recording())
    walks: list[int] = []

    def walk() -> None:
        walks.append(1)
        if len(walks) > 1:
            msg = "the buffer is wrong; make another"
            raise error(msg)

    run = recorded(walk)
    run()
    with pytest.raises(error, match="the buffer is wrong"):
        run()
    assert len(walks) == 2, "it is not walked again"


def test_a_call_that_a_library_does_not_start_while_recording_is_walked(
    fake_graphs: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda.logger, "handle", lambda _: None)
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])

    class Recording(nullcontext):
        def __enter__(self) -> None:
            capturing[0] = True

        def __exit__(self, *_: object) -> None:
            capturing[0] = False

    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: Recording())
    walks: list[bool] = []

    def walk() -> None:
        walks.append(capturing[0])
        if capturing[0]:
            raise cuda.refusal("the plan did not start")

    run = recorded(walk)
    for _ in range(3):
        run()
    assert walks == [False, True, False, False]


def test_a_torch_without_cuda_is_refused_in_our_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(EngineError, match=r"torch .* was made without CUDA; install one with it"):
        TorchBuffers("cuda")
    with pytest.raises(EngineError, match="there is no CUDA device that torch can use"):
        describe("cuda")
    assert not isinstance(cuda.refusal("it did not start"), NotRecordedError)


@pytest.mark.parametrize(
    "precision",
    [each for each in ALL if each.name != "int4"],  # weights alone are stored in it
    ids=lambda each: each.name,
)
def test_every_type_of_number_goes_to_torch_and_back(precision: Precision) -> None:
    buffers = TorchBuffers("cpu")
    for shape in ((), (4,)):
        value = np.ones(shape).astype(precision.dtype)
        buffer = buffers.zeros(shape, precision.dtype)
        assert buffer.dtype == getattr(torch, precision.torch)
        buffers.write(buffer, value)
        found = buffers.host(buffer)
        assert found.dtype == precision.dtype
        np.testing.assert_array_equal(found, value)
        assert buffers.finite(buffer)
        assert cuda.form_of(buffer) == (shape, precision.dtype)


def test_without_cuda_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="no CUDA device that torch can use"):
        cuda.find_device()


@pytest.fixture
def bundle(
    pipelines: Callable[[str], Path], make_bundle: Callable[[str, SubNet], Bundle]
) -> Bundle:
    """Few steps of a DiT: tables whose rows are small, caches, a slot for each."""
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    return make_bundle("learned-variance", search(opened, "random", Options(steps=6, keep=0.48)))


def test_a_run_on_torch_buffers_equals_one_on_numpy(bundle: Bundle) -> None:
    engine = OnTorch()
    there, here = Runner(bundle, engine), Runner(bundle, make_engine("onnxruntime", "cpu"))
    expected, found = here.run("7", seed=4), there.run("7", seed=4)
    assert engine.recorded == 1
    np.testing.assert_allclose(found.latents, expected.latents, rtol=1e-4, atol=1e-5)
    assert np.abs(found.images.astype(int) - expected.images).max() <= 1
    caches = {
        name: np.ones(bundle.slots[slot], "f4") for name, slot in bundle.calls[1].reads.items()
    }
    calls = [each.call(1, expected.latents, caches) for each in (there, here)]
    assert calls[0].keys() == calls[1].keys()
    for name, value in calls[1].items():
        np.testing.assert_allclose(calls[0][name], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(there.decode(found.latents), here.decode(found.latents), atol=1e-5)


def test_being_told_of_each_call_changes_nothing(bundle: Bundle) -> None:
    engine = OnTorch()
    runner, told = Runner(bundle, engine), list[int]()
    expected = runner.run("7", seed=4).latents
    found = runner.run("7", seed=4, on_call=lambda number, *_: told.append(number)).latents
    np.testing.assert_array_equal(found, expected)
    assert engine.recorded == 1, "what is told of between calls cannot be recorded"
    assert told == list(range(len(bundle.calls)))


@pytest.mark.parametrize("make", [lambda: make_engine("onnxruntime", "cpu"), OnTorch])
def test_a_call_that_is_not_finite_is_named(
    bundle: Bundle, make: Callable[[], OnnxRuntime]
) -> None:
    """On the device the look comes after the loop; the call it names is the first all the same."""
    engine = make()
    runner = Runner(bundle, engine)
    second = [n for n, call in enumerate(bundle.calls) if call.prediction is not None][1]
    spoil = runner._predictions[bundle.calls[second].prediction]
    call = runner._calls[second]

    def broken() -> None:
        call()
        engine.buffers.write(spoil, np.full(spoil.shape, np.nan, "f4"))

    runner._calls[second] = broken
    with pytest.raises(NotFiniteError, match=rf"not finite after call {second} "):
        runner.run("7", seed=4)


def test_each_kind_of_buffers_is_what_the_runner_asks_for() -> None:
    asked = [name for name in vars(Buffers) if not name.startswith("_")]
    for kind in (NumpyBuffers, TorchBuffers):
        assert [name for name in asked if not hasattr(kind, name)] == []


@pytest.mark.gpu
def test_a_walk_on_a_gpu_is_recorded_and_replays_what_it_did() -> None:
    """Proves that the sampler's sums can be recorded, and that a replay sees what is new in its buffers."""
    buffers = TorchBuffers("cuda")
    table, out = buffers.table((2, 8), FLOAT32), buffers.zeros((8,), FLOAT32)
    row = buffers.zeros((2,), FLOAT32)
    run = buffers.record(buffers.combination(row, table, out))
    for number in range(3):
        buffers.write(row, [2.0, 1.0 + number])
        buffers.write(table, np.full((2, 8), number))
        run()
        np.testing.assert_array_equal(buffers.host(out), np.full(8, (3.0 + number) * number, "f4"))
    assert run.__self__._replay is not None
    assert run.__self__._replay != run.__self__._walk


@pytest.mark.gpu
def test_the_gpu_says_what_it_is() -> None:
    """Proves that name, capability and driver version can be had without NVIDIA's Python packages."""
    found = cuda.find_device()
    assert found.name
    assert float(found.capability) >= 5
    assert found.driver.split(".")[0].isdigit()
