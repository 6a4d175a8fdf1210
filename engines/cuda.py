"""Buffers on a CUDA device, as torch tensors, and the device itself."""

from __future__ import annotations

import ctypes
import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engines.errors import EngineError, NotRecordedError
from search.core.precision import is_own, of_numpy, of_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.base import Form
    from engines.buffers import Buffer

ALIGNMENT = 256
"""Alignment of tensors for TensorRT, in bytes."""
_VERSION_LENGTH = 80
logger = logging.getLogger("stepcarve.cuda")


@dataclass(frozen=True)
class Device:
    """A GPU and what drives it.

    Attributes:
        name: of the GPU.
        capability: as "9.0".
        driver: its version.
        cuda: version of the CUDA runtime.
    """

    name: str
    capability: str
    driver: str
    cuda: str


def require_cuda() -> None:
    """Require a GPU that torch can use."""
    if not torch.cuda.is_available():
        how = (
            "install an NVIDIA driver"
            if torch.version.cuda
            else f"torch {torch.__version__} was made without CUDA; install one with it"
        )
        msg = f"there is no CUDA device that torch can use; {how}, or use an engine on --device cpu"
        raise EngineError(msg)


def find_device() -> Device:
    """The current GPU.

    Raises:
        EngineError: there is none that works.
    """
    require_cuda()
    major, minor = torch.cuda.get_device_capability()
    name, cuda = torch.cuda.get_device_name(), torch.version.cuda or ""
    return Device(name, f"{major}.{minor}", _driver(), cuda)


def _driver() -> str:
    """The driver's version, from its management library."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        version = ctypes.create_string_buffer(_VERSION_LENGTH)
        library.nvmlInit_v2()
        failed = library.nvmlSystemGetDriverVersion(version, _VERSION_LENGTH)
        library.nvmlShutdown()
    except (OSError, AttributeError):
        failed = 1
    if failed:
        msg = "the NVIDIA driver does not report its version (libnvidia-ml.so.1); reinstall the driver"
        raise EngineError(msg)
    return version.value.decode()


class Arena:
    """Memory for the activations of a plan.

    Plans run one after another, so one arena of the largest size serves them all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.size = device, 0
        self._memory: torch.Tensor | None = None

    def require(self, size: int) -> None:
        """Be at least `size` bytes large."""
        if size > self.size:
            self.size, self._memory = size, None

    @property
    def memory(self) -> torch.Tensor:
        """The memory; a new tensor after it has grown."""
        if self._memory is None:
            self._memory = torch.empty(max(self.size, 1), dtype=torch.uint8, device=self._device)
        return self._memory

    @property
    def address(self) -> int:
        """Where it begins."""
        return int(self.memory.data_ptr())


class TorchBuffers:
    """Torch tensors on one device; all work on them is on one stream of it."""

    on_host = False

    def __init__(self, device: str = "cuda", *, cuda_graph: bool = True) -> None:
        """Refuse "cuda" where torch has no GPU."""
        self._device = torch.device(device)
        if self._device.type == "cuda":
            require_cuda()
        self._cuda_graph = cuda_graph and self._device.type == "cuda"
        self.arena = Arena(self._device)
        self.stream: Any = (
            torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            if self._device.type == "cuda"
            else None
        )

    @property
    def handle(self) -> int:
        """Of the stream, for libraries that enqueue work on it."""
        return 0 if self.stream is None else int(self.stream.cuda_stream)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        """See `engines.buffers.Buffers`; it begins at a multiple of `ALIGNMENT`."""
        size = math.prod(shape) * dtype.itemsize
        with self._on_stream():
            memory = torch.zeros(size + ALIGNMENT, dtype=torch.uint8, device=self._device)
        begin = -memory.data_ptr() % ALIGNMENT
        return memory[begin : begin + size].view(_torch_dtype(dtype)).view(shape)

    def table(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        """See `engines.buffers.Buffers`; rows lie `ALIGNMENT` apart, each without gaps."""
        count, *row = shape
        bytes_each = dtype.itemsize
        stride = -(-math.prod(row) * bytes_each // ALIGNMENT) * ALIGNMENT // bytes_each
        whole = self.zeros((count, stride), dtype)
        return whole[:, : math.prod(row)].view(shape)

    def rows(self, source: torch.Tensor) -> torch.Tensor:
        """See `engines.buffers.Buffers`."""
        if source.stride(0) * source.element_size() % ALIGNMENT == 0:
            return source
        return self.table(tuple(source.shape), _numpy_dtype(source.dtype))

    def write(self, into: torch.Tensor, value: Any) -> None:
        """See `engines.buffers.Buffers`."""
        if not isinstance(value, torch.Tensor):
            value = _tensor(np.asarray(value))
        with self._on_stream():
            into.copy_(value)
        self.wait()  # the values may be the caller's to change

    def host(self, buffer: torch.Tensor) -> NDArray[Any]:
        """See `engines.buffers.Buffers`."""
        with self._on_stream():
            here = buffer.cpu()
        dtype = _numpy_dtype(here.dtype)
        array: NDArray[Any] = _bits(here.contiguous()).numpy()
        return array.view(dtype)

    def finite(self, buffer: torch.Tensor) -> bool:
        """See `engines.buffers.Buffers`."""
        with self._on_stream():
            return bool(torch.isfinite(buffer.float()).all())

    def combination(
        self, row: torch.Tensor, terms: torch.Tensor, out: torch.Tensor
    ) -> Callable[[], None]:
        """See `engines.buffers.Buffers`."""
        known, flat = terms[: len(row)].flatten(1).T, out.view(-1)

        def combine() -> None:
            with self._on_stream():
                torch.mv(known, row, out=flat)

        return combine

    def record(self, walk: Callable[[], None]) -> Callable[[], None]:
        """See `engines.buffers.Buffers`: a CUDA graph, recorded at first use.

        What a library refuses to record is logged and then run call by call; any other
        error is raised.
        """
        return _Recorded(walk, self.stream, self.arena).run if self._cuda_graph else walk

    def wait(self) -> None:
        """See `engines.buffers.Buffers`."""
        if self.stream is not None:
            self.stream.synchronize()

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


def refusal(message: str) -> EngineError:
    """The error of a library that did not start a call: while calls are recorded, of its own kind."""
    recording = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    return NotRecordedError(message) if recording else EngineError(message)


class _Recorded:
    """A walk recorded at its second run; the first initialises the libraries."""

    def __init__(self, walk: Callable[[], None], stream: Any, arena: Arena) -> None:
        self._walk, self._stream, self._arena = walk, stream, arena
        self._warm = False
        self._replay: Callable[[], None] | None = None

    def run(self) -> None:
        """Run, record or replay, by the number of the call."""
        if not self._warm:
            self._walk()
            self._warm = True
            return
        if self._replay is None:
            self._replay = self._record()
        with torch.cuda.stream(self._stream):
            self._replay()

    def _record(self) -> Callable[[], None]:
        graph, own = torch.cuda.CUDAGraph(), list[EngineError]()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                try:
                    self._walk()
                except EngineError as error:
                    own.append(error)
                    raise
        except RuntimeError as error:
            # An EngineError is one, and may have been replaced by another at the recording's end.
            if own and not isinstance(own[0], NotRecordedError):
                raise own[0] from None
            logger.warning(
                "the calls cannot be recorded as one CUDA graph (%s); they run one by one",
                " ".join(str(error).split())[:300],
            )
            torch.cuda.synchronize()
            return self._walk
        self._held = self._arena.memory  # the graph goes on using it when the arena has moved
        replay: Callable[[], None] = graph.replay
        return replay


def checked_tensor(
    path: Path, name: str, buffers: Mapping[str, Buffer], expected: Form
) -> torch.Tensor:
    """The buffer for `name` of the graph at `path`; an engine would read or write past a wrong one."""
    tensor = buffers.get(name)
    if tensor is None:
        msg = f"{path.name} has {name!r}, but no buffer was given; export again"
        raise EngineError(msg)
    found, start = form_of(tensor), int(tensor.data_ptr())
    if found != expected or not tensor.is_contiguous() or start % ALIGNMENT:
        msg = (
            f"{path.name} takes {name!r} as {expected[1]} {list(expected[0])} at a multiple of "
            f"{ALIGNMENT} bytes, but the buffer is {found[1]} {list(found[0])} at {start}; make it "
            "with engine.buffers"
        )
        raise EngineError(msg)
    checked: torch.Tensor = tensor
    return checked


def form_of(tensor: torch.Tensor) -> Form:
    """Shape and dtype as numpy has them."""
    return tuple(tensor.shape), _numpy_dtype(tensor.dtype)


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    found: torch.dtype = getattr(torch, of_numpy(dtype).torch)
    return found


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return of_torch(str(dtype).removeprefix("torch.")).dtype


_BITS = {1: "uint8", 2: "int16"}
"""Bytes of a number -> a type of that size that numpy and torch both have."""


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as a numpy array; types that numpy lacks are viewed as their bits."""
    dtype = _numpy_dtype(tensor.dtype)
    return tensor if is_own(dtype) else tensor.view(getattr(torch, _BITS[dtype.itemsize]))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """A copy of the array; types that only ml_dtypes has are copied as their bits."""
    if is_own(array.dtype):
        return torch.tensor(array)
    bits = array.copy().view(_BITS[array.dtype.itemsize])
    return torch.tensor(bits).view(_torch_dtype(array.dtype))
