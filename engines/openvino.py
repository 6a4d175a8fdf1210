"""OpenVINO on the CPU: float32 by default, bound to the runner's buffers."""

from __future__ import annotations

import io
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import openvino

from engines.base import DEFAULTS, EngineOptions, checked
from engines.buffers import NumpyBuffers
from engines.errors import EngineError
from engines.resident import Resident
from search.core.precision import denoiser_precisions, is_own, of_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.base import Form, Report
    from engines.buffers import Buffers

PRECISIONS = {each.name: each for each in denoiser_precisions() if each.hint}
"""Values of `--precision` that it supports."""


class OpenVino:
    """OpenVINO on the CPU.

    Attributes:
        precision: that it computes in if that is less than the graphs say; else None.
    """

    name = "openvino"
    suffix: str | None = ".blob"
    buffers: Buffers = NumpyBuffers()

    def __init__(self, device: str, options: EngineOptions = DEFAULTS) -> None:
        """Refuse precisions that this processor does not compute in."""
        self.device, self.options = device, options
        self._core = openvino.Core()
        if "CPU" not in self._core.available_devices:
            msg = f"this openvino {openvino.__version__} has no CPU plugin; reinstall the package"
            raise EngineError(msg)
        chosen = options.precision or "float32"
        self._settings = settings_of(options, self._precision(chosen))
        self._resident = Resident[Compiled](options.resident)
        self.precision = None if chosen == "float32" else chosen

    def _precision(self, name: str) -> str:
        if name not in PRECISIONS:
            msg = f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}"
            raise EngineError(msg)
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if PRECISIONS[name].hint not in able:
            can = [each for each, precision in PRECISIONS.items() if precision.hint in able]
            msg = f"this processor does not compute in {name} with openvino; use --precision {' or '.join(can)}"
            raise EngineError(msg)
        return PRECISIONS[name].engines[self.name]

    def key(self) -> dict[str, str]:
        """See `engines.base.Engine`."""
        processor = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        able = sorted(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return {
            "library": f"openvino {openvino.__version__}",
            "processor": f"{processor} ({', '.join(able)})",
            **self._settings,
        }

    def build(self, graph: Path, out: Path, report: Report) -> None:
        """Compile a graph into `out`, weights and all, which spares OpenVINO its rewriting at load."""
        report(f"compile {graph.name}")
        compiled = self._compile(graph)
        with out.open("wb") as file:
            compiled.export_model(_Stream(file))

    def load(self, graph: Path, built: Path | None = None) -> OpenVinoSession:
        """Load a graph; what OpenVINO rearranges of the weights is a copy for this graph alone."""
        return OpenVinoSession(graph, partial(self._loaded, graph, built), self._resident)

    def _loaded(self, graph: Path, built: Path | None) -> Compiled:
        # OpenVINO takes writable memory only; copy-on-write pages stay those of the file.
        blob = None if built is None else np.memmap(built, np.uint8, "c")
        compiled = self._compile(graph) if blob is None else self._import(blob)
        found = compiled.get_property("EXECUTION_DEVICES")
        if found != ["CPU"]:
            msg = f"openvino put {str(graph)!r} on {', '.join(found)} instead of CPU; reinstall the package"
            raise EngineError(msg)
        return Compiled(compiled, blob)

    def _compile(self, graph: Path) -> openvino.CompiledModel:
        try:
            return self._core.compile_model(graph, "CPU", self._settings)
        except RuntimeError as error:
            # It takes no weights from behind a link, as bundles in a hub's cache have them.
            copied = (
                "; copy the bundle with cp -rL, and give the copy" if graph.is_symlink() else ""
            )
            msg = f"openvino cannot load {str(graph)!r}: {_sentence(error)}{copied}"
            raise EngineError(msg) from error

    def _import(self, blob: np.memmap[Any, np.dtype[np.uint8]]) -> openvino.CompiledModel:
        try:
            tensor = openvino.Tensor(blob, shared_memory=True)
            return self._core.import_model(tensor, "CPU", self._settings)
        except RuntimeError as error:
            msg = f"openvino cannot load {str(blob.filename)!r}: {_sentence(error)}; build it again"
            raise EngineError(msg) from error


class _Stream(io.BytesIO):
    """A file, for OpenVINO, which exports to streams in memory only."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()


@dataclass(frozen=True)
class Compiled:
    """One graph in memory.

    Attributes:
        model: compiled.
        blob: the mapped file that it was built into, if it was, which has to live as long.
        requests: made of it, by what they are bound to.
    """

    model: openvino.CompiledModel
    blob: np.memmap[Any, np.dtype[np.uint8]] | None
    requests: dict[int, openvino.InferRequest] = field(default_factory=dict)


class OpenVinoSession:
    """One graph in OpenVINO, loaded now and whenever it is called and not resident."""

    def __init__(
        self, path: Path, load: Callable[[], Compiled], resident: Resident[Compiled]
    ) -> None:
        self._path, self._load, self._resident = path, load, resident
        self._key, self._bound = object(), 0
        # The engine, which may outlive the session, holds what is loaded.
        weakref.finalize(self, resident.forget, self._key)
        model = self._compiled().model
        self.inputs: Mapping[str, Form] = {_name(p): _form(p, path) for p in model.inputs}
        self.outputs: Mapping[str, Form] = {_name(p): _form(p, path) for p in model.outputs}

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """See `engines.base.Session`."""
        reads = [checked(self._path, n, inputs, form) for n, form in self.inputs.items()]
        writes = [checked(self._path, n, outputs, form) for n, form in self.outputs.items()]
        self._bound += 1
        if self._key in self._resident:
            compiled = self._compiled()
            compiled.requests[self._bound] = _request(compiled.model, reads, writes)
        call = partial(self._run, self._bound, reads, writes)
        weakref.finalize(call, self._release, self._bound)
        return call

    def _release(self, number: int) -> None:
        """Give up the request of a binding that is gone."""
        if self._key in self._resident:
            self._compiled().requests.pop(number, None)

    def _run(
        self, number: int, reads: Sequence[NDArray[Any]], writes: Sequence[NDArray[Any]]
    ) -> None:
        """Call the graph on the arrays of binding `number`."""
        compiled = self._compiled()
        if number not in compiled.requests:
            compiled.requests[number] = _request(compiled.model, reads, writes)
        compiled.requests[number].infer(share_outputs=True)

    def _compiled(self) -> Compiled:
        return self._resident.get(self._key, self._load)


def _request(
    model: openvino.CompiledModel, reads: Sequence[NDArray[Any]], writes: Sequence[NDArray[Any]]
) -> openvino.InferRequest:
    request = model.create_infer_request()
    for number, array in enumerate(reads):
        request.set_input_tensor(number, _shared(array, model.inputs[number]))
    for number, array in enumerate(writes):
        request.set_output_tensor(number, _shared(array, model.outputs[number]))
    return request


def settings_of(options: EngineOptions, precision: str) -> dict[str, str]:
    """One call at a time, as fast as it goes; threads may move, as other processes use the cores too."""
    threads = {} if options.threads is None else {"INFERENCE_NUM_THREADS": str(options.threads)}
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        # Else it rounds what layers with integer weights take to integers too, which no graph asks for.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "ENABLE_CPU_PINNING": "NO",
        **threads,
    }


def _shared(array: NDArray[Any], port: openvino.ConstOutput) -> openvino.Tensor:
    """The memory of `array` as a tensor; OpenVINO takes numpy's own types, of others their bits."""
    plain = array if is_own(array.dtype) else array.view(f"u{array.dtype.itemsize}")
    return openvino.Tensor(plain, port.get_shape(), port.get_element_type())


def _name(port: openvino.ConstOutput) -> str:
    """Of a graph's input or output, as ONNX has it; its tensor may have others too."""
    name: str = port.get_node().get_friendly_name()
    return name.removesuffix("/sink_port_0")


def _form(port: openvino.ConstOutput, path: Path) -> Form:
    kind = port.get_element_type().get_type_name()
    try:
        return tuple(port.get_shape()), of_engine("openvino", kind).dtype
    except KeyError as error:
        msg = (
            f"{path.name} has {_name(port)!r} as {kind}, which stepcarve has no buffers for; "
            "export with another --dtype"
        )
        raise EngineError(msg) from error


def _sentence(error: RuntimeError) -> str:
    """The part of OpenVINO's report that says what is wrong, without the lines of its sources."""
    lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]
    return " ".join(" ".join(lines).split())[:300]
