"""ONNX Runtime on the CPU: sessions over one memory-mapped weights file, bound to the runner's buffers."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from engines.base import DEFAULTS, EngineOptions, checked
from engines.buffers import NumpyBuffers
from engines.errors import EngineError
from search.core.precision import of_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.base import Form, Report
    from engines.buffers import Buffers

WARNINGS, SILENT = 2, 4
"""Severities of ONNX Runtime's loggers."""
ROUNDING = b"QuantizeLinear"
"""Is in the file of a graph that rounds what its layers take."""
FUSION = "MatMulAddFusion"
"""What ONNX Runtime calls making a Gemm of a MatMul and an Add."""
FALLBACK = "CPUExecutionProvider"
"""ONNX Runtime's fallback provider."""
# An ONNX model of one node, y = Exp(x).
_PROBE = bytes.fromhex(
    "080a3a360a0b0a01781201792203457870120570726f62655a0f0a0178120a0a08080112040a020801620f0a017912"
    "0a0a08080112040a02080142040a001014"
)


class OnnxRuntime:
    """ONNX Runtime on the CPU; `engines.onnxruntime_cuda` is on a GPU."""

    name = "onnxruntime"
    suffix: str | None = None
    provider = "CPUExecutionProvider"

    def __init__(self, device: str, options: EngineOptions = DEFAULTS) -> None:
        """`options` are those of the engine's record."""
        self.device, self.options = device, options
        self.buffers: Buffers = NumpyBuffers()
        self.settings: dict[str, str] = {}

    def key(self) -> dict[str, str]:
        """See `engines.base.Engine`."""
        return {"library": f"onnxruntime {onnxruntime.__version__}", "device": self.device}

    def build(self, graph: Path, out: Path, report: Report) -> None:
        """Not for this engine: it compiles in memory."""
        del out, report
        msg = f"onnxruntime keeps no built file of {graph.name}; load it"
        raise EngineError(msg)

    def load(self, graph: Path, built: Path | None = None) -> OnnxRuntimeSession:
        """Load a graph; its weights stay in the memory-mapped file, shared by all sessions."""
        del built
        options = session_options(self.options.threads)
        return self.bound(open_session(graph, self.provider, options, self.settings), graph)

    def bound(self, session: onnxruntime.InferenceSession, graph: Path) -> OnnxRuntimeSession:
        """The session as the runner takes it."""
        return OnnxRuntimeSession(session, graph)


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """The options of all sessions."""
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Prepacked weights are private copies, and so are those of the layout optimisations.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Else it may round what layers with integer weights take to integers too, which no graph asks for.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    # Threads that wait actively slow down the sessions and processes that have work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@cache
def _share_arena() -> None:
    """Share one arena for the activations of all sessions of this process, which run one at a time."""
    where = onnxruntime.OrtMemoryInfo(
        "Cpu",
        onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        onnxruntime.OrtMemType.DEFAULT,
    )
    onnxruntime.create_and_register_allocator(where, None)


class OnnxRuntimeSession:
    """One graph in ONNX Runtime."""

    def __init__(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        self._session, self._path = session, path
        self.inputs: Mapping[str, Form] = {i.name: _form(i, path) for i in session.get_inputs()}
        self.outputs: Mapping[str, Form] = {o.name: _form(o, path) for o in session.get_outputs()}

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """See `engines.base.Session`."""
        binding = self._session.io_binding()
        for name in self.inputs:
            array = checked(self._path, name, inputs, self.inputs[name])
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name in self.outputs:
            array = checked(self._path, name, outputs, self.outputs[name])
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        session = self._session

        def run() -> None:
            session.run_with_iobinding(binding)

        return run


def _form(port: onnxruntime.NodeArg, path: Path) -> Form:
    try:
        return tuple(port.shape), of_engine("onnxruntime", port.type).dtype
    except KeyError as error:
        msg = (
            f"{path.name} has {port.name!r} as {port.type}, which stepcarve has no buffers for; "
            "export with another --dtype"
        )
        raise EngineError(msg) from error


def open_session(
    path: Path | bytes,
    provider: str,
    options: onnxruntime.SessionOptions,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> onnxruntime.InferenceSession:
    """A session on `provider` and nothing else, or an EngineError."""
    if provider != FALLBACK:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    source = path if isinstance(path, bytes) else str(path)
    where = "a probe graph" if isinstance(path, bytes) else repr(str(path))
    try:
        session = onnxruntime.InferenceSession(
            source,
            options,
            providers=[(provider, dict(settings))],
            enable_fallback=0,
            disabled_optimizers=_left_out(path, provider),
        )
    except Exception as error:  # the runtime has no error class of its own that covers them all
        msg = f"onnxruntime cannot load {where} on {provider}: {' '.join(str(error).split())[:300]}"
        raise EngineError(msg) from error
    if session.get_providers()[0] != provider:
        msg = (
            f"onnxruntime put {where} on {session.get_providers()[0]} instead of {provider}; "
            "check its installation with stepcarve doctor"
        )
        raise EngineError(msg)
    return session


def _left_out(graph: Path | bytes, provider: str) -> list[str]:
    """The optimisations that a graph is better without: on the CPU, Gemm multiplies no integers, MatMul does."""
    if provider != FALLBACK:
        return []
    content = graph if isinstance(graph, bytes) else graph.read_bytes()
    return [FUSION] if ROUNDING in content else []


def probe(provider: str) -> None:
    """Run a one-node graph on `provider`: a compiled-in provider need not work."""
    if provider not in onnxruntime.get_available_providers():
        msg = f"this onnxruntime has no {provider}; use --device cpu, or install onnxruntime-gpu"
        raise EngineError(msg)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        open_session(_PROBE, provider, options).run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:  # of the engine, or of the provider while it runs
        msg = (
            f"{provider} does not work here; use --device cpu, or install an NVIDIA driver and "
            'pip install "onnxruntime-gpu[cuda,cudnn]", which brings CUDA and cuDNN'
        )
        raise EngineError(msg) from error
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)
