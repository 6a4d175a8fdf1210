"""What the runner asks of an engine, and the engines there are."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


Form = tuple[tuple[int, ...], "np.dtype[Any]"]
"""Shape and dtype."""


class Session(Protocol):
    """One graph, loaded.

    Attributes:
        inputs: name -> shape and dtype.
        outputs: name -> shape and dtype.
    """

    inputs: Mapping[str, Form]
    outputs: Mapping[str, Form]

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """A function that runs the graph from and into exactly these buffers, without copies.

        The caller owns the buffers and keeps them alive; no buffer may be both input and output.
        """


class Engine(Protocol):
    """Runs ONNX graphs on one device.

    Attributes:
        name: as on the command line.
        device: where it runs, proven when the engine was made.
    """

    name: str
    device: str

    def load(self, path: Path) -> Session:
        """Load a graph. Graphs that refer to one weights file share it in memory.

        Raises:
            EngineError: the graph cannot be loaded on the engine's device.
        """


ENGINES: dict[str, str] = {
    "onnxruntime": "engines.onnxruntime:OnnxRuntime",
}
"""Name on the command line -> module and class."""


def make_engine(name: str, device: str) -> Engine:
    """The engine `name` on `device`; what is not there is refused, never replaced."""
    if name not in ENGINES:
        msg = f"unknown engine {name!r}; choose one of {', '.join(sorted(ENGINES))}"
        raise EngineError(msg)
    module, cls = ENGINES[name].split(":")
    engine: Engine = getattr(importlib.import_module(module), cls)(device)
    return engine
