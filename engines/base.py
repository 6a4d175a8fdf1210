"""The protocols of engines and sessions, the options of engines, and `make_engine`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from engines.errors import EngineError
from engines.kinds import engine_kind
from search.core.precision import denoiser_precisions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from engines.buffers import Buffer, Buffers


HINTS = tuple(each.name for each in denoiser_precisions() if each.hint)
"""Precisions for `--precision`."""


def _option(default: Any, kind: type, text: str) -> Any:
    """A field with its help text for the command line."""
    return field(default=default, metadata={"type": kind, "help": text})


Form = tuple[tuple[int, ...], "np.dtype[Any]"]
"""Shape and dtype."""
Report = Callable[..., None]
"""Called with a progress message and, if known, the completed fraction."""


@dataclass(frozen=True)
class EngineOptions:
    """All options of the engines; `engines.kinds` lists those that an engine takes.

    The command line has an option per field, with the field's help.
    """

    threads: int | None = _option(
        None, int, "Compute with this many threads.  [default: the engine's own]"
    )
    precision: str | None = _option(
        None, str, "Compute in this precision, whatever the bundle's type.  [default: float32]"
    )
    compute_capability: str | None = _option(
        None,
        str,
        "Build for GPUs of this compute capability, such as 8.9.  [default: this machine's]",
    )
    optimization_level: int | None = _option(
        None,
        int,
        "Optimisation level of the builder; a higher level takes longer and may find faster kernels.",
    )
    workspace: int | None = _option(None, int, "Limit the builder's workspace to this many MiB.")
    strip_weights: bool = _option(
        False, bool, "Leave the weights out of the built plans and read them from the bundle."
    )
    cuda_graph: bool = _option(
        True, bool, "On CUDA, record each call as a CUDA graph and replay it."
    )

    def require_only(self, engine: str, known: Sequence[str]) -> None:
        """Refuse options that `engine`, which takes those in `known`, would ignore."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        unknown = [flag_of(field) for field in changed if field.name not in known]
        if unknown:
            takes = " and ".join(flag_of(f) for f in fields(self) if f.name in known)
            msg = f"{engine} does not take {', '.join(unknown)}; it takes {takes or 'no options'}"
            raise EngineError(msg)


def flag_of(field: Field[Any]) -> str:
    """What changes a field of `EngineOptions` on the command line."""
    return f"--{'no-' if field.default is True else ''}{field.name.replace('_', '-')}"


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
        """Compile a graph into `out`, a file that is not there yet.

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


def make_engine(name: str, device: str, options: EngineOptions = DEFAULTS) -> Engine:
    """The engine `name` on `device`; what is not there is refused, never replaced.

    Raises:
        EngineError: an engine, device or option that there is not, or that does not work here.
    """
    kind = engine_kind(name)
    kind.require_device(device)
    options.require_only(f"{name} on {device}", kind.options[device])
    kind.load_library()
    engine: Engine = kind.engine_class(device)(device, options)
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
            f"{array.dtype} {list(array.shape)}; give values of that type and shape"
        )
        raise EngineError(msg)
    return array
