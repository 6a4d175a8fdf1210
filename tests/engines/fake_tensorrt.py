"""A stand-in for the tensorrt module: the calls that our code makes, and a record of them.

A graph is a text (see `_Engine`), which is its own plan, and a run of it copies every input to the output
of the same number; or it is an ONNX file, whose plan is its path, and ONNX Runtime runs it.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

__version__ = "11.4.0"

NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 3})
BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "STRIP_PLAN", "REFIT_IDENTICAL"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
LayerType = enum.Enum("LayerType", ["ATTENTION_INPUT", "CONVOLUTION"])
TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
DataType = enum.Enum(
    "DataType",
    ["FLOAT", "HALF", "BF16", "FP8", "FP4", "INT8", "UINT8", "INT32", "INT64", "BOOL"],
)
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "USER_MANAGED"]
)
_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT32": 4, "INT64": 8}
"""Of types whose numbers take more than one."""
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}
_ONNX = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}

ATTENTION = (10, 14)
"""The first version that has it."""


def of_version(version: str) -> ModuleType:
    """This module as it is in another version: what came later is not there."""
    made = ModuleType("tensorrt")
    made.__dict__.update(globals())
    made.__dict__["__version__"] = version
    if tuple(map(int, version.split(".")[:2])) < ATTENTION:
        del made.__dict__["IAttentionInputLayer"]
        made.__dict__["LayerType"] = enum.Enum("LayerType", ["CONVOLUTION"])
    return made


calls: list[tuple[Any, ...]] = []
"""What was asked, in order."""
faults: set[str] = set()
"""What is to go wrong: parse, build, refit, deserialize, execute."""


class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"

    def __init__(self) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class IAttentionInputLayer:
    def __init__(self) -> None:
        self.type, self.attention = LayerType.ATTENTION_INPUT, SimpleNamespace(decomposable=False)


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def combine(self, other: _TimingCache, ignore_mismatch: bool) -> None:
        assert not ignore_mismatch
        self.content += other.content

    def serialize(self) -> bytes:
        return self.content


class _Config:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self.cache = _TimingCache(b"")
        self.pools: dict[Any, int] = {}

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.pools[pool] = size

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def get_timing_cache(self) -> _TimingCache:
        return self.cache

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return not (ignore_mismatch or cache.content.startswith(b"of another GPU"))


class _Network:
    def __init__(self) -> None:
        self.graph = ""
        self.layers = [SimpleNamespace(type=LayerType.CONVOLUTION), IAttentionInputLayer()]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]


class Builder:
    def __init__(self, log: Any) -> None:
        self.log = log

    def create_network(self, flags: int) -> _Network:
        calls.append(("create_network", flags))
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        calls.append(("build", network, config))
        monitor = config.progress_monitor
        monitor.phase_start("building", None, 2)
        for step in range(2):
            if not monitor.step_complete("building", step):
                return None
        monitor.phase_finish("building")
        if "build" in faults:
            self.log.log(ILogger.WARNING, "not worth saying")
            self.log.log(ILogger.ERROR, "no kernel")
            return None
        config.cache.content += b"timed;"
        return network.graph.encode()


class OnnxParser:
    num_errors = 1

    def __init__(self, network: _Network, log: Any) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        content = Path(path).read_bytes()
        is_text = content.startswith((b"input", b"memory"))
        self.network.graph = content.decode() if is_text else f"onnx {path}"
        return "parse" not in faults

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "an unknown operator")


class Runtime:
    def __init__(self, log: Any) -> None:
        self.log = log

    def deserialize_cuda_engine(self, plan: mmap.mmap) -> _Engine | None:
        assert isinstance(plan, mmap.mmap), "a plan is not to be read into memory"
        if "deserialize" in faults:
            self.log.log(ILogger.ERROR, "the plan is of another version")
            return None
        text = plan[:].decode()
        return _OnnxEngine(Path(text[5:])) if text.startswith("onnx ") else _Engine(text)


class _Engine:
    """From lines `input|output NAME TYPE SIZE...`, and `memory BYTES`."""

    def __init__(self, text: str) -> None:
        lines = [line.split() for line in text.splitlines()]
        self.device_memory_size_v2 = sum(int(words[1]) for words in lines if words[0] == "memory")
        self.ports = {words[1]: words for words in lines if words[0] != "memory"}

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    def get_tensor_name(self, index: int) -> str:
        return list(self.ports)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self.ports[name][0].upper()]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(map(int, self.ports[name][3:]))

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.ports[name][2]]

    def create_execution_context(self, strategy: Any) -> _Context:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        calls.append(("set_device_memory", size))
        self.memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory[1] >= self.engine.device_memory_size_v2
        if "execute" in faults:
            return False
        ports = self.engine.ports
        reads, writes = ([n for n, w in ports.items() if w[0] == k] for k in ("input", "output"))
        for source, target in zip(reads, writes, strict=False):
            count = int(np.prod(self.engine.get_tensor_shape(source))) * _BYTES.get(
                ports[source][2], 1
            )
            ctypes.memmove(self.addresses[target], self.addresses[source], count)
        return True


class _OnnxEngine(_Engine):
    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options)
        ports = {"input": self.session.get_inputs(), "output": self.session.get_outputs()}
        lines = [
            " ".join([kind, port.name, _ONNX[port.type], *map(str, port.shape)])
            for kind, each in ports.items()
            for port in each
        ]
        super().__init__("\n".join([*lines, "memory 4096"]))

    def create_execution_context(self, strategy: Any) -> _OnnxContext:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return _OnnxContext(self)


class _OnnxContext(_Context):
    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory[1] >= self.engine.device_memory_size_v2
        binding = self.engine.session.io_binding()
        for name, (kind, _, dtype, *shape) in self.engine.ports.items():
            bind = binding.bind_input if kind == "input" else binding.bind_output
            bind(name, "cpu", 0, NUMPY[dtype], list(map(int, shape)), self.addresses[name])
        self.engine.session.run_with_iobinding(binding)
        return True


class Refitter:
    def __init__(self, engine: _Engine, log: Any) -> None:
        pass

    def refit_cuda_engine(self) -> bool:
        return "refit" not in faults


class OnnxParserRefitter:
    num_errors = 0

    def __init__(self, refitter: Refitter, log: Any) -> None:
        pass

    def refit_from_file(self, path: str) -> bool:
        calls.append(("refit_from_file", path))
        return True
