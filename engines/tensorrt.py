"""TensorRT and TensorRT-RTX: plans built from step graphs, run on the buffers of `engines.cuda`.

In this file `trt` is the module of either library.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.base import Form
from engines.errors import EngineError
from engines.kinds import engine_kind
from engines.plans import PlanOptions, build_plan, make_log, target
from search.core.precision import of_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engines.base import EngineOptions, Report
    from engines.buffers import Buffer
    from engines.cuda import Device, TorchBuffers

CACHE = "XDG_CACHE_HOME"
"""Environment variable that says where caches of programs lie."""


class TensorRt:
    """TensorRT on this GPU; plans are built for it alone."""

    name = "tensorrt"
    suffix = ".plan"

    def __init__(self, device: str, options: EngineOptions) -> None:
        """Refuse a library that is missing or too old, and a GPU that is."""
        self._trt = engine_kind(self.name).load_library()
        self.device, self.options = device, options
        self._require_device()

    def key(self) -> dict[str, str]:
        """See `engines.base.Engine`."""
        gpu, options = self._gpu, self.options
        return {
            "library": f"{self.name} {self._trt.__version__}",
            "cuda": gpu.cuda,
            "driver": gpu.driver,
            "gpu": gpu.name,
            "compute_capability": gpu.capability,
            "optimization_level": str(options.optimization_level),
            "workspace": str(options.workspace),
            "strip_weights": str(options.strip_weights),
        }

    def build(self, graph: Path, out: Path, report: Report) -> None:
        """See `engines.base.Engine`."""
        build_plan(self._trt, graph, out, self._plan_options, report)

    def load(self, graph: Path, built: Path | None = None) -> TensorRtSession:
        """See `engines.base.Engine`; a plan without weights takes those of the graph."""
        if built is None:
            msg = f"{self.name} runs built plans; run stepcarve build --engine {self.name} first"
            raise EngineError(msg)
        return TensorRtSession(self._trt, self._deserialize(graph, built), graph, self.buffers)

    @cached_property
    def buffers(self) -> TorchBuffers:
        """The runner's buffers."""
        from engines.cuda import TorchBuffers

        return TorchBuffers("cuda", cuda_graph=self.options.cuda_graph)

    @cached_property
    def _gpu(self) -> Device:
        from engines.cuda import find_device

        return find_device()

    @property
    def _plan_options(self) -> PlanOptions:
        options = self.options
        return PlanOptions(
            optimization_level=options.optimization_level,
            workspace=options.workspace,
            strip_weights=options.strip_weights,
            timing_cache=timing_cache(self._trt.__version__, self._gpu),
        )

    @cached_property
    def _runtime(self) -> Any:
        return self._trt.Runtime(self._log)

    @cached_property
    def _log(self) -> Any:
        return make_log(self._trt)

    def _deserialize(self, graph: Path, built: Path) -> Any:
        with built.open(
            "rb"
        ) as file:  # mapped: a plan holds all weights, and the library copies them
            plan = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            msg = (
                f"{self.name} {self._trt.__version__} cannot load {str(built)!r}: "
                f"{'; '.join(self._log.errors)[-300:]}; run stepcarve build again on this machine"
            )
            raise EngineError(msg)
        if self.options.strip_weights:
            refit(self._trt, engine, graph, self._log)
        return engine

    def _require_device(self) -> None:
        _ = self._gpu


class TensorRtRtx(TensorRt):
    """TensorRT-RTX: builds on the CPU for a kind of GPU, runs on GPUs of that kind.

    Its plans depend on the GPU's compute capability, not on the machine that built them.
    """

    name = "tensorrt-rtx"

    def key(self) -> dict[str, str]:
        """See `engines.base.Engine`."""
        return {
            "library": f"{self.name} {self._trt.__version__}",
            "compute_capability": self._capability,
            "workspace": str(self.options.workspace),
        }

    def load(self, graph: Path, built: Path | None = None) -> TensorRtSession:
        """See `engines.base.Engine`."""
        if self.device != "cuda":
            msg = "tensorrt-rtx builds on the CPU but runs on an RTX GPU; give --device cuda"
            raise EngineError(msg)
        return super().load(graph, built)

    @property
    def _plan_options(self) -> PlanOptions:
        return PlanOptions(compute_capability=self._capability, workspace=self.options.workspace)

    @property
    def _capability(self) -> str:
        capability = self.options.compute_capability
        if capability is not None:
            return capability
        if self.device != "cuda":
            msg = (
                "tensorrt-rtx builds for one kind of GPU; give --compute-capability, "
                "as 8.9 for the RTX 40 series, or --device cuda for the GPU at hand"
            )
            raise EngineError(msg)
        return self._gpu.capability

    def _require_device(self) -> None:
        if self.device == "cuda":
            target(self._trt, self._gpu.capability)
        if self.options.compute_capability is not None:
            target(self._trt, self.options.compute_capability)


class TensorRtSession:
    """One plan, loaded, with one execution context; its activations lie in the arena of all."""

    def __init__(self, trt: Any, engine: Any, graph: Path, buffers: TorchBuffers) -> None:
        self._graph, self._buffers = graph, buffers
        self._engine = engine  # the context does not keep it alive
        inputs, outputs = dict[str, Form](), dict[str, Form]()
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs)[name] = _form(engine, name, graph)
        self.inputs: Mapping[str, Form] = inputs
        self.outputs: Mapping[str, Form] = outputs
        buffers.arena.require(engine.device_memory_size_v2)
        self._context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._context is None:
            msg = f"there is too little GPU memory left to load {str(graph)!r}; free some"
            raise EngineError(msg)
        self._placed = 0

    def bind(
        self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> Callable[[], None]:
        """See `engines.base.Session`; buffers are those of `engines.cuda`."""
        reads = {n: self._span(n, inputs, form) for n, form in self.inputs.items()}
        writes = {n: self._span(n, outputs, form) for n, form in self.outputs.items()}
        _require_apart(self._graph, reads, writes)
        addresses = {name: span.start for name, span in (*reads.items(), *writes.items())}
        context, stream = self._context, self._buffers.handle
        from engines.cuda import refusal

        def run() -> None:
            self._place()
            for name, address in addresses.items():
                context.set_tensor_address(name, address)
            if not context.execute_async_v3(stream):
                raise refusal(
                    f"the plan of {self._graph.name} did not start; see what TensorRT wrote"
                )

        return run

    def _place(self) -> None:
        """Give the context the arena, which has moved if a larger plan was loaded since."""
        arena = self._buffers.arena
        if self._placed != arena.address:
            self._context.set_device_memory(arena.address, arena.size)
            self._placed = arena.address

    def _span(self, name: str, buffers: Mapping[str, Buffer], expected: Form) -> range:
        """The addresses of the buffer for `name`; TensorRT would read or write past a wrong one."""
        from engines.cuda import checked_tensor

        buffer = checked_tensor(self._graph, name, buffers, expected)
        start = int(buffer.data_ptr())
        return range(start, start + max(buffer.numel() * buffer.element_size(), 1))


def refit(trt: Any, engine: Any, graph: Path, log: Any) -> None:
    """Give an engine without weights those of the graph it was built from."""
    refitter = trt.Refitter(engine, log)
    reader = trt.OnnxParserRefitter(refitter, log)
    if not (reader.refit_from_file(str(graph)) and refitter.refit_cuda_engine()):
        errors = [
            reader.get_error(index).desc() for index in range(reader.num_errors)
        ] or log.errors
        msg = (
            f"the plan of {str(graph)!r} does not take the weights of that graph "
            f"({'; '.join(errors)[-300:]}); run stepcarve build again"
        )
        raise EngineError(msg)


def timing_cache(version: str, gpu: Device) -> Path:
    """The file of kernel timings that all builds with this library, GPU and driver share."""
    what = f"{version}\n{gpu.name}\n{gpu.capability}\n{gpu.driver}"
    folder = os.environ.get(CACHE) or Path.home() / ".cache"
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    return Path(folder) / "stepcarve" / f"tensorrt-timings-{digest}"


def _form(engine: Any, name: str, graph: Path) -> Form:
    kind = engine.get_tensor_dtype(name).name
    try:
        return tuple(engine.get_tensor_shape(name)), of_engine("tensorrt", kind).dtype
    except KeyError as error:
        msg = (
            f"the plan of {graph.name} has {name!r} as {kind}, which stepcarve has no buffers for; "
            "export with another --dtype"
        )
        raise EngineError(msg) from error


def _require_apart(graph: Path, reads: Mapping[str, range], writes: Mapping[str, range]) -> None:
    """Refuse an output that shares memory with anything: the result would depend on timing."""
    spans = [*writes.items(), *reads.items()]
    for number, (name, span) in enumerate(spans[: len(writes)]):
        for other, taken in spans[number + 1 :]:
            if span.start < taken.stop and taken.start < span.stop:
                msg = (
                    f"{graph.name} would write {name!r} where {other!r} lies; give every output "
                    "a buffer of its own"
                )
                raise EngineError(msg)
