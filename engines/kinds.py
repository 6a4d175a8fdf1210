"""The engines, one record each. None of them is imported here."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Rates:
    """Estimated build seconds on one core: `start + per_node n + per_gigabyte g`.

    Attributes:
        start: of a process with the library.
        per_node: of the graph.
        per_gigabyte: of its weights.
        growth: bytes of what is built, per byte of weights.
    """

    start: float
    per_node: float
    per_gigabyte: float
    growth: float


UNMEASURED = Rates(2, 0.005, 10, 1)


OPSET = 23
"""Of ONNX, that the graphs of bundles are written in: it has attention as one operator."""


@dataclass(frozen=True)
class EngineKind:
    """The record of an engine.

    Attributes:
        name: as on the command line.
        classes: device -> "module:Class" of the `Engine` there, made of a device and options.
        package: the library's module.
        install: how to get it.
        oldest: its first version that runs the graphs of a bundle; empty: any.
        options: fields of `EngineOptions` that it takes, per device where they differ.
        rates: of builds, as measured on small graphs; what a bundle has built corrects them.
        needs_build: whether it runs built files only.
        builds_only: devices on which it builds files for another machine, and runs none.
        schemes: device -> schemes of quantisation that its kernels multiply in, the best first.
        convolves_integers: whether they do so in convolutions too.
        notes: device -> what there is to say of it beside that it works.
    """

    name: str
    classes: Mapping[str, str]
    package: str
    install: str
    options: Mapping[str, tuple[str, ...]]
    rates: Rates = UNMEASURED
    oldest: tuple[int, ...] = ()
    needs_build: bool = False
    builds_only: tuple[str, ...] = ()
    schemes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    convolves_integers: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)

    def require_device(self, device: str) -> None:
        """Refuse a device that the engine does not support."""
        if device not in self.classes:
            where = " or ".join(self.classes)
            msg = (
                f"{self.name} runs on {where}, not on {device!r}; give --device {where}, or another "
                "engine"
            )
            raise EngineError(msg)

    def engine_class(self, device: str) -> Any:
        """The class of the engine on `device`."""
        module, name = self.classes[device].split(":")
        return getattr(importlib.import_module(module), name)

    def load_library(self) -> Any:
        """The library's module.

        Raises:
            EngineError: it is not installed, or too old.
        """
        package = self.package.replace("_", "-")
        try:
            library = importlib.import_module(self.package)
        except ImportError as error:
            msg = f"the package {package} is not installed ({error}); {self.install}"
            raise EngineError(msg) from error
        version = getattr(library, "__version__", "")
        if tuple(map(int, re.findall(r"\d+", version)))[: len(self.oldest)] < self.oldest:
            msg = (
                f"this is {package} {version}, but the graphs of a bundle (ONNX opset {OPSET}) need "
                f"{'.'.join(map(str, self.oldest))} or newer; {self.install}"
            )
            raise EngineError(msg)
        return library


TENSORRT_OPTIONS = ("optimization_level", "workspace", "strip_weights", "cuda_graph")
RTX_OPTIONS = ("compute_capability", "workspace", "cuda_graph")
SYMMETRIC = ("int8-symmetric", "fp8")

ENGINES = (
    EngineKind(
        name="onnxruntime",
        classes={
            "cpu": "engines.onnxruntime:OnnxRuntime",
            "cuda": "engines.onnxruntime_cuda:OnnxRuntimeCuda",
        },
        package="onnxruntime",
        install='pip install "onnxruntime-gpu>=1.31" (or onnxruntime)',
        oldest=(1, 23),
        options={"cpu": ("threads",), "cuda": ("threads", "cuda_graph")},
        schemes={"cpu": ("int8",)},
        convolves_integers=False,
        notes={"cpu": "works; multiplies integers in linear layers, but not in convolutions"},
    ),
    EngineKind(
        name="openvino",
        classes={"cpu": "engines.openvino:OpenVino"},
        package="openvino",
        install="pip install openvino, or stepcarve[openvino]",
        options={"cpu": ("threads", "precision", "resident")},
        rates=Rates(2, 0.002, 8, 1),
        schemes={"cpu": ("int8",)},
    ),
    EngineKind(
        name="tensorrt",
        classes={"cuda": "engines.tensorrt:TensorRt"},
        package="tensorrt",
        install=(
            'pip install "tensorrt>=11,<12" on a machine with an NVIDIA GPU; the package fetches its '
            "libraries from NVIDIA's own index"
        ),
        options={"cuda": TENSORRT_OPTIONS},
        oldest=(10, 14),  # attention
        rates=Rates(10, 0.05, 20, 1.1),
        schemes={"cuda": SYMMETRIC},
        needs_build=True,
    ),
    EngineKind(
        name="tensorrt-rtx",
        classes={
            "cpu": "engines.tensorrt:TensorRtRtx",
            "cuda": "engines.tensorrt:TensorRtRtx",
        },
        package="tensorrt_rtx",
        install="pip install tensorrt-rtx",
        options={"cpu": RTX_OPTIONS, "cuda": RTX_OPTIONS},
        rates=Rates(2, 0.005, 30, 1.3),
        schemes={"cpu": SYMMETRIC, "cuda": SYMMETRIC},
        needs_build=True,
        builds_only=("cpu",),
        notes={"cpu": "builds plans (give --compute-capability); they run on cuda"},
    ),
)
"""A new engine is one file with its class, and one record here."""


def engine_names() -> tuple[str, ...]:
    """For `--engine`."""
    return tuple(kind.name for kind in ENGINES)


def engine_kind(name: str) -> EngineKind:
    """The record of an engine.

    Raises:
        EngineError: there is none of that name.
    """
    for kind in ENGINES:
        if kind.name == name:
            return kind
    msg = f"unknown engine {name!r}; choose one of {', '.join(sorted(engine_names()))}"
    raise EngineError(msg)


def takers(option: str) -> tuple[str, ...]:
    """Names of the engines that take a field of `EngineOptions`, on any device; for the help."""
    return tuple(
        kind.name for kind in ENGINES if any(option in options for options in kind.options.values())
    )
