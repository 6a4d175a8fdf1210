"""What the runner asks of an engine, and the engines there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from engines.buffers import Buffer, Buffers


Form = tuple[tuple[int, ...], "np.dtype[Any]"]
"""Shape and dtype."""
Report = Callable[..., None]
"""Is told what is being done, and its share of the whole where that is known."""


@dataclass(frozen=True)
class EngineOptions:
    """What an engine can be asked for; each refuses what it does not know.

    Attributes:
        threads: that compute; None lets the engine choose (onnxruntime, openvino).
        precision: that openvino may compute in: float32, bfloat16 or float16; None is float32.
        compute_capability: that tensorrt-rtx builds for, as "8.9"; None is this machine's GPU.
        optimization_level: of tensorrt's builder.
        workspace: that tensorrt's builder may use, in MiB.
        strip_weights: leave the weights out of tensorrt's plans.
        cuda_graph: record the calls and replay them (tensorrt, onnxruntime on cuda).
    """

    threads: int | None = None
    precision: str | None = None
    compute_capability: str | None = None
    optimization_level: int | None = None
    workspace: int | None = None
    strip_weights: bool = False
    cuda_graph: bool = True

    def require_only(self, engine: str, known: Sequence[str]) -> None:
        """Refuse options that `engine`, which takes those in `known`, would ignore."""
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        unknown = [_flag(name) for name in changed if name not in known]
        if unknown:
            takes = " and ".join(map(_flag, known)) or "no options"
            msg = f"{engine} does not take {', '.join(unknown)}; it takes {takes}"
            raise EngineError(msg)


DEFAULTS = EngineOptions()


class Session(Protocol):
    """One graph, loaded.

    Attributes:
        inputs: name -> shape and dtype.
        outputs: name -> shape and dtype.
    """

    inputs: Mapping[str, Form]
    outputs: Mapping[str, Form]

    def bind(
        self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> Callable[[], None]:
        """A function that runs the graph from and into exactly these buffers, without copies.

        The caller owns the buffers and keeps them alive; no buffer may be both input and output.
        """


class Engine(Protocol):
    """Runs ONNX graphs on one device.

    Attributes:
        name: as on the command line.
        device: where it runs, proven when the engine was made.
        options: that it was made from.
        buffers: makes what its sessions read and write.
        suffix: of what one built graph is kept in, as ".plan"; None for an engine that compiles in
            memory when it loads a graph, and then neither `build` nor `built` is for it.
    """

    name: str
    device: str
    options: EngineOptions
    suffix: str | None
    buffers: Buffers

    def key(self) -> dict[str, str]:
        """What a built file depends on beside graph and weights.

        As versions of library and driver, the device, and the options that change what is built.
        """

    def build(self, graph: Path, out: Path, report: Report) -> None:
        """Compile a graph into `out`, a file or folder that is not there yet.

        Called in a child process, with a temporary `out`: who calls renames it when it is whole.

        Raises:
            EngineError: the graph cannot be built.
        """

    def load(self, graph: Path, built: Path | None = None) -> Session:
        """Load a graph. Graphs that refer to one weights file share it in memory where they can.

        Args:
            graph: the ONNX file.
            built: what `build` made of it; None compiles in memory, if the engine can.

        Raises:
            EngineError: the graph cannot be loaded on the engine's device.
        """


ENGINES: dict[str, str] = {
    "onnxruntime": "engines.onnxruntime:OnnxRuntime",
    "openvino": "engines.openvino:OpenVino",
    "tensorrt": "engines.tensorrt:TensorRt",
    "tensorrt-rtx": "engines.tensorrt:TensorRtRtx",
}
"""Name on the command line -> module and class, made of a device and options."""


def make_engine(name: str, device: str, options: EngineOptions = DEFAULTS) -> Engine:
    """The engine `name` on `device`; what is not there is refused, never replaced."""
    if name not in ENGINES:
        msg = f"unknown engine {name!r}; choose one of {', '.join(sorted(ENGINES))}"
        raise EngineError(msg)
    module, cls = ENGINES[name].split(":")
    engine: Engine = getattr(importlib.import_module(module), cls)(device, options)
    return engine


def checked(
    path: Path, name: str, arrays: Mapping[str, NDArray[Any]], expected: Form
) -> NDArray[Any]:
    """The buffer for `name` of the graph at `path`; an engine would read or write past a wrong one."""
    array = arrays.get(name)
    if array is None:
        msg = f"{path.name} has {name!r}, but no buffer was given; export again"
        raise EngineError(msg)
    if (array.shape, array.dtype) != expected or not array.flags.c_contiguous:
        msg = (
            f"{path.name} takes {name!r} as {expected[1]} {list(expected[0])}, but the buffer is "
            f"{array.dtype} {list(array.shape)}; give values of that shape"
        )
        raise EngineError(msg)
    return array


def _flag(name: str) -> str:
    """As it stands on the command line."""
    return f"--{name.replace('_', '-')}"
