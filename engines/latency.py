"""Latency of SubNets: each distinct call of a denoiser, timed once on an engine."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import EngineError
from engines.kinds import engine_kind
from engines.machine import describe
from exporter.carve import carve
from exporter.traced import trace_denoiser
from exporter.weights import refer, write_weights
from search.core.actions import Action
from search.core.files import write_atomically
from search.core.program import Signature, plan_program
from search.core.table import always
from search.core.topology import Target
from search.core.versions import installed, versions_of
from search.model.opening import open_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from engines.base import Engine, Form
    from exporter.trace import Master
    from search.core.subnet import SubNet

SCHEMA = 4
KIND = "stepcarve-latencies"
PACKAGES = ("stepcarve", "torch", "diffusers", "onnxscript", "onnx-ir")
"""Packages that determine the graphs; the engine's own package is added."""

WARM_UP = 2
LEAST_RUNS, MOST_RUNS = 5, 50
ENOUGH_SECONDS = 0.1


@dataclass(frozen=True)
class Setting:
    """What latencies depend on; those of another setting are refused.

    Attributes:
        denoiser: class name of the denoiser.
        fingerprint: of its configuration and weights.
        topology: SHA-256 of the topology whose targets the signatures number.
        latent_shape: `[C, H, W]` of one picture.
        batch: pictures per call.
        guided: whether guidance doubles the batch.
        engine: its name.
        device: where it runs.
        machine: the processor, and the accelerator if there is one.
        versions: package -> version.
    """

    denoiser: str
    fingerprint: str
    topology: str
    latent_shape: tuple[int, ...]
    batch: int
    guided: bool
    engine: str
    device: str
    machine: str
    versions: Mapping[str, str]

    def require(self, here: Setting, source: str) -> None:
        """Refuse the present setting `here` if it differs from this one, read from `source`."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(here, field.name)
            if mine != theirs:
                msg = (
                    f"the latencies in {source!r} were measured with {field.name.replace('_', ' ')} "
                    f"{mine!r}, but here it is {theirs!r}; give the name of a new file, and the times are measured here"
                )
                raise EngineError(msg)


def setting_of(subnet: SubNet, engine: Engine, *, batch: int = 1) -> Setting:
    """The setting of the denoiser that `subnet` is for, on `engine` and this machine."""
    binding = subnet.binding
    topology = json.dumps(subnet.topology.to_json(), sort_keys=True)
    return Setting(
        denoiser=binding.denoiser,
        fingerprint=binding.fingerprint,
        topology=hashlib.sha256(topology.encode()).hexdigest(),
        latent_shape=binding.latent_shape,
        batch=batch,
        guided=binding.guided,
        engine=engine.name,
        device=engine.device,
        machine=describe(engine.device),
        versions=versions_of(PACKAGES) | installed(engine.name.replace("-", "_")),
    )


class LatencyTable:
    """Seconds of each distinct call of one denoiser.

    Called with a SubNet, it says what that costs as a fraction of the full sampler.

    Attributes:
        setting: what the seconds belong to.
        seconds: per measured signature.
    """

    def __init__(
        self,
        setting: Setting,
        subnet: SubNet,
        measure: Callable[[Signature], float],
        seconds: Mapping[Signature, float] | None = None,
    ) -> None:
        """Start with what is known.

        Args:
            setting: of `subnet` on the engine that `measure` uses.
            subnet: any for the denoiser whose calls these are.
            measure: seconds of one call; called once per signature.
            seconds: measured earlier in this setting.
        """
        self.setting = setting
        self.seconds = dict(seconds or {})
        self._measure = measure
        self._whole = always(subnet, Action.RUN)

    @property
    def name(self) -> str:
        """What it measures; a search by another cost is not resumed."""
        setting = self.setting
        return f"latency on {setting.engine} ({setting.device}), batch {setting.batch}"

    def __call__(self, subnet: SubNet) -> float:
        """The seconds of all calls of `subnet`, as a fraction of those of the full sampler.

        Raises:
            EngineError: it is for another denoiser, granularity or shape.
        """
        if _subject(subnet) != _subject(self._whole):
            msg = (
                f"the SubNet is for a {subnet.binding.denoiser} at {subnet.granularity} granularity and "
                f"latents {subnet.binding.latent_shape}, but these latencies are of another denoiser, "
                "granularity, shape or guidance; measure again for this SubNet"
            )
            raise EngineError(msg)
        per_call = self._total(self._whole) / self._whole.steps
        return self._total(subnet) / (subnet.full_calls * per_call)

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically; see docs/formats.md."""
        calls = [asdict(signature) | {"seconds": s} for signature, s in self.seconds.items()]
        data = {"schema": SCHEMA, "kind": KIND, "setting": asdict(self.setting), "calls": calls}
        write_atomically(path, json.dumps(data) + "\n")

    def _total(self, subnet: SubNet) -> float:
        program = plan_program(subnet, 1)
        return sum(self._once(program.signatures[call.signature]) for call in program.calls)

    def _once(self, signature: Signature) -> float:
        if signature not in self.seconds:
            self.seconds[signature] = self._measure(signature)
        return self.seconds[signature]


def read_seconds(path: Path, here: Setting) -> dict[Signature, float]:
    """What `LatencyTable.save` wrote, if it was measured in the setting `here`.

    Raises:
        EngineError: the file is no table of latencies, of a newer schema, or of another setting.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{str(path)!r} is not JSON ({error}); give the name of a new file"
        raise EngineError(msg) from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        msg = f"{str(path)!r} is not a table of latencies; give the name of a new file"
        raise EngineError(msg)
    if data.get("schema") != SCHEMA:
        msg = (
            f"{str(path)!r} has schema {data.get('schema')!r}, but this stepcarve reads {SCHEMA}; "
            "give the name of a new file, and the times are measured again"
        )
        raise EngineError(msg)
    try:
        setting = data["setting"] | {"latent_shape": tuple(data["setting"]["latent_shape"])}
        Setting(**setting).require(here, str(path))
        return dict(_read_call(call) for call in data["calls"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{str(path)!r} is wrong or incomplete at {error}; give the name of a new file"
        raise EngineError(msg) from error


@contextmanager
def latency_table(
    path: Path,
    subnet: SubNet,
    engine: Engine,
    *,
    batch: int = 1,
    file: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[LatencyTable]:
    """A table that measures missing latencies on `engine` while the context is open.

    Args:
        path: the pipeline's directory.
        subnet: any for that pipeline, of the granularity and shape to measure at.
        engine: what to measure on.
        batch: pictures per call.
        file: where to keep the table: read if it is there, written at the end.
        report: called with a short progress message.

    Raises:
        EngineError: `file` is of another setting or no table.
    """
    setting = setting_of(subnet, engine, batch=batch)
    known = read_seconds(file, setting) if file is not None and file.exists() else {}
    with TemporaryDirectory(prefix="stepcarve-") as folder:
        stopwatch = Stopwatch(path, subnet, engine, Path(folder), report, batch=batch)
        table = LatencyTable(setting, subnet, stopwatch.seconds, known)
        try:
            yield table
        finally:
            if file is not None and len(table.seconds) > len(known):
                table.save(file)


class Stopwatch:
    """Times single calls of one denoiser on one engine.

    The denoiser is traced, and its weights are written to the folder, before the first call; every
    session maps that one file and is gone once its call has been timed.
    """

    def __init__(
        self,
        path: Path,
        subnet: SubNet,
        engine: Engine,
        folder: Path,
        report: Callable[[str], None] = lambda _: None,
        *,
        batch: int = 1,
    ) -> None:
        """See `latency_table`; `folder` is empty, and the caller removes it."""
        self._path, self._subnet, self._batch = path, subnet, batch
        self._engine, self._folder, self._report = engine, folder, report
        self._master: Master | None = None
        self._count = 0

    def seconds(self, signature: Signature) -> float:
        """Median seconds of the call on buffers of random values.

        Raises:
            EngineError: the engine cannot load its graph.
        """
        import onnx_ir as ir

        if self._master is None:
            self._master = self._prepared()
        self._report(f"measure call {self._count}")
        file = self._folder / f"call_{self._count:05d}.onnx"
        self._count += 1
        ir.save(carve(self._master, signature, file.stem), file)
        taken = self._timed(file)
        for each in self._folder.glob(f"{file.stem}.*"):
            each.unlink()
        return taken

    def _timed(self, file: Path) -> float:
        """Median seconds of the graph in `file`, until its results are there."""
        built = None
        if engine_kind(self._engine.name).needs_build:
            built = file.with_suffix(self._engine.suffix or "")
            self._engine.build(file, built, lambda *_: None)
        session, buffers = self._engine.load(file, built), self._engine.buffers
        random = np.random.default_rng(0)
        inputs = {name: buffers.zeros(*form) for name, form in session.inputs.items()}
        outputs = {name: buffers.zeros(*form) for name, form in session.outputs.items()}
        for name, form in session.inputs.items():
            buffers.write(inputs[name], filled(form, random))
        call = session.bind(inputs, outputs)

        def run() -> None:
            call()
            buffers.wait()

        return median_seconds(run)

    def _prepared(self) -> Master:
        """The master graph, its weights in the folder."""
        self._report("trace denoiser to measure it")
        pipeline = open_for(self._subnet, self._path, weights=False)
        bases = frozenset(self._subnet.topology.bases)
        master = trace_denoiser(pipeline, self._subnet, bases, self._batch)
        refer(self._folder, master.model, write_weights(self._folder, [master.model]))
        return master


def median_seconds(
    run: Callable[[], None], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median seconds of `run`: a few warm-up runs first, then more runs the shorter they are."""
    for _ in range(WARM_UP):
        run()
    taken: list[float] = []
    while len(taken) < LEAST_RUNS or (len(taken) < MOST_RUNS and sum(taken) < ENOUGH_SECONDS):
        started = clock()
        run()
        taken.append(clock() - started)
    return statistics.median(taken)


def _subject(subnet: SubNet) -> tuple[object, ...]:
    """What two SubNets must share so that equal signatures are equal graphs."""
    binding = subnet.binding
    return binding.fingerprint, binding.latent_shape, binding.guided, subnet.topology


def filled(form: Form, random: np.random.Generator) -> NDArray[Any]:
    """Normal values; zeros where they are whole numbers."""
    shape, dtype = form
    if dtype.kind in "fV":  # V are those of ml_dtypes
        return np.asarray(random.standard_normal(shape), dtype)
    return np.zeros(shape, dtype)


def _read_call(call: dict[str, Any]) -> tuple[Signature, float]:
    targets = {
        name: tuple(map(Target.from_json, call[name])) for name in ("computes", "reads", "writes")
    }
    seconds = float(call["seconds"])
    if not 0 < seconds < float("inf"):
        msg = f"the seconds of a call, {seconds}"
        raise ValueError(msg)
    return Signature(**targets, predicts=bool(call["predicts"])), seconds
