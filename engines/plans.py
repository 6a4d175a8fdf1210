"""From an ONNX file to a TensorRT plan, for TensorRT 10.14+ and 11 and for TensorRT-RTX.

`trt` is the module of either library, passed to every function.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from engines.errors import EngineError
from search.core.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engines.base import Report

MEBIBYTE = 2**20
LEAST = 0.01
"""Least progress that is reported, as a fraction of the build."""
MESSAGE = 500
"""Most characters of the library's message in an error."""


@dataclass(frozen=True)
class PlanOptions:
    """What decides the plan of a graph.

    Attributes:
        compute_capability: to build for, as "8.9"; None builds for the GPU at hand.
        optimization_level: 0 (quick to build) to 5; None is the library's own.
        workspace: that kernels may use, in MiB; None is all the GPU has.
        strip_weights: leave the weights out; they are then read from the ONNX file at every load.
        timing_cache: file of kernel timings that builds share, or None.
    """

    compute_capability: str | None = None
    optimization_level: int | None = None
    workspace: int | None = None
    strip_weights: bool = False
    timing_cache: Path | None = None


@dataclass
class BuildProgress:
    """A build's progress as one fraction, reported from any thread; `stop` ends the build.

    Phases nest: a step of the outer one is as far as the phase within it. There are thousands of
    steps: those that advance it by less than `LEAST` are not reported.
    """

    report: Report
    stopped: bool = False
    _reported: float = 0.0
    _phases: dict[str, list[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """Let the build end with its next step."""
        self.stopped = True

    def begin(self, phase: str, steps: int) -> None:
        """Begin a phase within the open ones."""
        with self._lock:
            self._phases[phase] = [0, max(steps, 1)]

    def advance(self, phase: str, step: int) -> bool:
        """Step number `step` of `phase` is done; returns whether to go on."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase][0] = step + 1
            share = 0.0
            for done, steps in reversed(self._phases.values()):
                share = min((done + share) / steps, 1.0)
            tell = not self.stopped and share >= self._reported + LEAST
            self._reported = share if tell else self._reported
        if tell:
            self.report(phase, share)
        return not self.stopped

    def end(self, phase: str) -> None:
        """End the phase."""
        with self._lock:
            self._phases.pop(phase, None)
            if not self._phases:
                self._reported = 0.0


def build_plan(trt: Any, graph: Path, out: Path, options: PlanOptions, report: Report) -> None:
    """Write the plan of an ONNX file to `out`, from where the library built it and without a copy.

    Raises:
        EngineError: the library does not take the graph.
        KeyboardInterrupt: Ctrl-C while it built.
    """
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(_refusal(trt, graph, errors or log.errors))
    _allow_decomposing(trt, network)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if options.timing_cache is not None:
        _open_cache(config, options.timing_cache)
    progress = BuildProgress(report)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    with _stopping(progress):
        plan = builder.build_serialized_network(network, config)
    if progress.stopped:
        raise KeyboardInterrupt
    if plan is None:
        raise EngineError(_refusal(trt, graph, log.errors))
    if options.timing_cache is not None:
        _save_cache(config, options.timing_cache)
    write_atomically(out, memoryview(plan))


def make_log(trt: Any) -> Any:
    """A logger that keeps errors, in `errors`, and passes the rest over."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _network_flags(trt: Any) -> int:
    """Networks are strongly typed: always since version 11 (and in RTX), by a flag in version 10."""
    if int(trt.__version__.split(".")[0]) != 10:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _allow_decomposing(trt: Any, network: Any) -> None:
    """Let attentions for which there is no kernel (float32, odd widths) be made of other layers."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # get_layer returns the base class
            layer.attention.decomposable = True


def _configure(trt: Any, config: Any, options: PlanOptions) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is float32
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MEBIBYTE)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if options.compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(target(trt, options.compute_capability), 0)


def target(trt: Any, capability: str) -> Any:
    """The library's name of a compute capability such as "8.9"; what it does not know is refused."""
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if capability not in known:
        msg = (
            f"TensorRT-RTX {trt.__version__} does not build for compute capability {capability!r}; "
            f"choose one of {', '.join(sorted(known, key=float))}"
        )
        raise EngineError(msg)
    return known[capability]


def _open_cache(config: Any, file: Path) -> None:
    """Give the build the kernel timings that are in `file`, if they are of this GPU."""
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _save_cache(config: Any, file: Path) -> None:
    """Write the build's timings, with what builds at the same time have written meanwhile."""
    cache = config.get_timing_cache()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            cache.combine(config.create_timing_cache(file.read_bytes()), ignore_mismatch=False)
        write_atomically(file, bytes(cache.serialize()))


def _monitor(trt: Any, progress: BuildProgress) -> Any:
    """The library's progress monitor, called from any thread."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            progress.begin(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.advance(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.end(phase_name)

    return Monitor()


@contextmanager
def _stopping(progress: BuildProgress) -> Iterator[None]:
    """Let Ctrl-C stop the build instead of raising within the library's callbacks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler: Callable[..., Any] = lambda *_: progress.stop()
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refusal(trt: Any, graph: Path, errors: list[str]) -> str:
    words = " ".join("; ".join(dict.fromkeys(errors)).split())[:MESSAGE]
    return (
        f"{trt.__name__.split('.')[0]} {trt.__version__} cannot build {str(graph)!r}: "
        f"{words or 'it does not say why'}; use another engine for this bundle, or report it"
    )
