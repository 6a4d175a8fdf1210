"""The ladder: its rungs from the manifest up to the engines, and what each compares."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from engines.errors import EngineError
from engines.parity import ONNX
from engines.parity.bisect import first_block
from engines.parity.ladder import climb
from engines.parity.manifest import check_manifest
from engines.parity.measure import compare
from engines.parity.record import CallParity, Rung
from engines.runner import Runner
from search.core.actions import Action
from search.core.names import PREDICTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from engines.base import Engine
    from engines.parity.floor import Floor
    from engines.parity.reference import Reference
    from exporter.bundle import Bundle
    from search.core.subnet import SubNet

MANIFEST = "manifest"
PYTORCH = "gated PyTorch, every block run"
NUMBERS = "integers and scales"
TWIN = "without rounding"


@dataclass(frozen=True)
class RungContext:
    """What the rungs compare with.

    Attributes:
        reference: what PyTorch computes.
        floors: by precision.
        k: how many floors a rung may be off.
        bisect: whether to look for the first block that is off.
        report: called with a few words about what is being done.
    """

    reference: Reference
    floors: Mapping[str, Floor]
    k: float
    bisect: bool
    report: Callable[[str], None]


@dataclass(frozen=True)
class Climbed:
    """What came of a rung.

    Attributes:
        rung: the verdict.
        picture: `[height, width, 3]`, of an engine.
        block: a sentence about the first block that is off; empty without `--bisect`.
    """

    rung: Rung
    picture: NDArray[np.uint8] | None = None
    block: str = ""


@dataclass(frozen=True)
class Planned:
    """A rung to climb.

    Attributes:
        name: for people.
        climb: compares it with the one below.
    """

    name: str
    climb: Callable[[RungContext], Climbed]


def plan_rungs(bundle: Bundle, engines: Sequence[Engine]) -> tuple[Planned, ...]:
    """The ladder, from the bottom up."""
    return (
        Planned(MANIFEST, _manifest_rung),
        Planned(PYTORCH, _pytorch_rung),
        *(_quantised_rungs(engines) if bundle.plan is not None else ()),
        *(
            Planned(name, partial(_engine_rung, engine, name))
            for engine, name in zip(engines, names_of(bundle, engines), strict=True)
        ),
    )


def _quantised_rungs(engines: Sequence[Engine]) -> Iterator[Planned]:
    """Below the engines: what is stored, and the graphs as they would be with nothing rounded."""
    yield Planned(NUMBERS, _numbers_rung)
    for engine in engines:
        if (engine.name, engine.device) == ONNX:
            name = f"{TWIN}, {engine.name} on {engine.device}"
            yield Planned(name, partial(_twin_rung, engine, name))


def names_of(bundle: Bundle, engines: Sequence[Engine]) -> list[str]:
    """Engine, device and, if it is not that of the bundle, precision."""
    precisions = [precision_of(engine, bundle) for engine in engines]
    return [
        f"{engine.name} on {engine.device}"
        + ("" if precision == bundle.dtype else f" in {precision}")
        for engine, precision in zip(engines, precisions, strict=True)
    ]


def precision_of(engine: Engine, bundle: Bundle) -> str:
    """The precision the engine computes in: `--precision`, or else that of the graphs."""
    if bundle.plan is not None:
        return bundle.precision
    return getattr(engine, "precision", None) or bundle.dtype


def _manifest_rung(context: RungContext) -> Climbed:
    """The manifest's calls, cache slots and coefficients against the SubNet's, without running it."""
    bundle = context.reference.bundle
    own = context.reference.opened.sampler_of(bundle.subnet)
    return _stated(MANIFEST, "the SubNet", check_manifest(bundle, own))


def _numbers_rung(context: RungContext) -> Climbed:
    """The stored integers against the pipeline's weights, scales against the plan, ranges against a run."""
    from engines.parity.quantisation import check_quantisation

    against = "the pipeline's weights and the quantisation plan"
    return _stated(NUMBERS, against, check_quantisation(context.reference))


def _twin_rung(engine: Engine, name: str, context: RungContext) -> Climbed:
    """PyTorch gated by the SubNet against the graphs of the float twin, at the floors of its dtype."""
    from engines.parity.twin import float_twin

    context.report(f"{name}: write the graphs")
    with float_twin(context.reference) as twin:
        reference = replace(context.reference, bundle=twin)
        return _engine_rung(engine, name, replace(context, reference=reference))


def _stated(name: str, against: str, failures: tuple[str, ...]) -> Climbed:
    """A rung that reads what the bundle says, and compares no results."""
    return Climbed(
        Rung(
            name=name,
            against=against,
            precision="",
            calls=(),
            finals={},
            psnr=math.nan,
            repeats=True,
            notes=(),
            failures=failures,
        )
    )


def _pytorch_rung(context: RungContext) -> Climbed:
    """Diffusers' own pipeline against the gated one with every block run; they must be equal."""
    reference = context.reference
    timesteps = reference.subnet.timesteps
    calls = tuple(
        CallParity(
            call=step,
            step=step,
            timestep=timesteps[step],
            graph="",
            forced=compare({PREDICTION: plain}, {PREDICTION: gated}, {PREDICTION: 0.0}, 1.0),
            free=None,
        )
        for step, (plain, gated) in reference.ungated.items()
    )
    failures = [
        f"{call.where}: the denoiser gated to run every block differs by {call.worst[1].relative:.2e} "
        "from the same denoiser without gates, which must be equal; report this as a bug"
        for call in calls
        if not call.worst[1].passed
    ]
    return Climbed(
        Rung(
            name=PYTORCH,
            against="diffusers' own pipeline",
            precision="float32",
            calls=calls,
            finals={},
            psnr=math.inf if not failures else math.nan,
            repeats=True,
            notes=(_quality_note(reference.subnet),),
            failures=tuple(failures),
        )
    )


def _quality_note(subnet: SubNet) -> str:
    if all(action is Action.RUN for row in subnet.actions for action in row):
        return "the SubNet runs everything: its picture is diffusers' own"
    return (
        "the SubNet leaves blocks out: how its picture differs from diffusers' is its quality, "
        "and no part of parity"
    )


def _engine_rung(engine: Engine, name: str, context: RungContext) -> Climbed:
    """PyTorch gated by the SubNet against an engine, call by call and on its own."""
    reference, report = context.reference, context.report
    floor = context.floors[precision_of(engine, reference.bundle)]
    report(f"{name}: load")
    runner = Runner(reference.bundle, engine)
    rung, picture = climb(runner, reference, floor, name=name, k=context.k, report=report)
    del runner  # frees the engine's memory for the one that looks at blocks
    if rung.passed or not context.bisect:
        return Climbed(rung, picture)
    report(f"{name}: look for the first block that is off")
    try:
        return Climbed(rung, picture, first_block(reference, engine, rung, context.k))
    except EngineError as error:  # of an engine that runs built plans only, say
        return Climbed(rung, picture, f"{name}: its blocks cannot be looked at: {error}")
