"""How closely engines reproduce diffusers: a ladder of comparisons, its tolerance measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity.measure import compare, psnr, relative_l2
from engines.parity.record import CallParity, K, Parity, Pictures, Rung
from engines.parity.wiring import check_wiring
from engines.runner import Runner
from search.core.actions import Action
from search.core.names import PREDICTION
from search.core.precision import precision_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.base import Engine
    from engines.parity.reference import Reference
    from exporter.bundle import Bundle

__all__ = ["K", "Parity", "Pictures", "Rung", "given_latents", "psnr", "relative_l2", "verify"]

PROBES = 10
"""About how many calls the floor is measured at; of every graph, three if it has them."""
ONNX = ("onnxruntime", "cpu")
"""The engine that is the rung of the ONNX graphs."""


def verify(
    bundle: Bundle,
    engines: Sequence[Engine],
    pipeline: Path,
    *,
    prompt: str,
    seed: int = 0,
    k: float = K,
    bisect: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Parity, Pictures]:
    """Climb the ladder from the pipeline that `bundle` came from to `engines` on it.

    The rungs: diffusers' own pipeline against PyTorch gated to run everything, which must be equal;
    then PyTorch gated by the SubNet against the ONNX graphs on ONNX Runtime's CPU provider, and against
    each engine.

    Args:
        bundle: to verify.
        engines: to run it on.
        pipeline: directory of the pipeline the bundle was exported from.
        prompt: what to sample; a class name or number for class-conditional pipelines.
        seed: of the noises.
        k: a rung holds if nothing differs by more than `k` times what rounding alone makes.
        bisect: name the first block that is off, where a call is.
        report: told, in a few words, what is being done.

    Raises:
        SearchError: the pipeline is not the one the bundle was exported from.
        EngineError: the bundle cannot be run at all.
    """
    from engines.parity.bisect import first_block
    from engines.parity.floor import measure_floor
    from engines.parity.ladder import climb
    from engines.parity.reference import picture_of, run_reference

    bundle.check()
    if not k > 0:
        msg = f"k is {k:g}; give a number of floors above 0"
        raise EngineError(msg)
    ladder, notes = _ladder(bundle, engines)
    latents, probes = given_latents(bundle, seed), probed(bundle)
    report("run PyTorch reference")
    steps = [bundle.calls[number].step for number in probes]
    reference = run_reference(
        bundle, pipeline, prompt=prompt, seed=seed, latents=latents, probes=steps
    )
    report("measure the noise floor")
    floors = {
        precision: measure_floor(reference, precision, probes)
        for precision in dict.fromkeys(precision_of(engine, bundle) for engine in ladder)
    }
    rungs, blocks = [_pytorch_rung(reference)], list[str]()
    shown: dict[str, NDArray[np.uint8]] = {}
    for engine in ladder:
        name = _name(engine, bundle)
        report(f"{name}: load")
        rung, shown[name] = climb(
            Runner(bundle, engine),
            reference,
            floors[precision_of(engine, bundle)],
            name=name,
            k=k,
            seed=seed,
            latents=latents,
            report=report,
        )
        rungs.append(rung)
        if bisect and not rung.passed:
            report(f"{name}: look for the first block that is off")
            try:
                blocks.append(first_block(reference, engine, rung, k))
            except EngineError as error:  # of an engine that runs built plans only, say
                blocks.append(f"{name}: its blocks cannot be looked at: {error}")
    pictures = Pictures(picture_of(reference.full), picture_of(reference.gated), shown)
    parity = Parity(
        prompt=prompt,
        seed=seed,
        k=k,
        rungs=tuple(rungs),
        quality=psnr(pictures.reference, pictures.full),
        notes=notes,
        program=check_wiring(bundle, reference.table),
        blocks=tuple(blocks),
    )
    return parity, pictures


def given_latents(bundle: Bundle, seed: int) -> NDArray[np.float32] | None:
    """Some for a bundle that begins from given latents; None for one that begins from noise."""
    if not bundle.sampler.given:
        return None
    return np.random.default_rng(seed).standard_normal(bundle.latent_shape, np.float32)


def probed(bundle: Bundle) -> list[int]:
    """The calls at which floors are measured: of every graph the first, the last and some between."""
    calls: dict[int, list[int]] = {}
    for number, call in enumerate(bundle.calls):
        calls.setdefault(call.graph, []).append(number)
    found = set[int]()
    for numbers in calls.values():
        share = max(3, round(PROBES * len(numbers) / len(bundle.calls)))
        places = np.linspace(0, len(numbers) - 1, min(share, len(numbers)))
        found |= {numbers[round(place)] for place in places}
    return sorted(found)


def precision_of(engine: Engine, bundle: Bundle) -> str:
    """What the engine computes in: less if it was asked to, else what the graphs say."""
    return getattr(engine, "precision", None) or bundle.dtype


def _name(engine: Engine, bundle: Bundle) -> str:
    precision = precision_of(engine, bundle)
    suffix = "" if precision == bundle.dtype else f" in {precision}"
    return f"{engine.name} on {engine.device}{suffix}"


def _ladder(bundle: Bundle, engines: Sequence[Engine]) -> tuple[list[Engine], tuple[str, ...]]:
    """The engines to climb, that of the ONNX graphs first; and why that one is not there."""
    has_onnx = any((each.name, each.device) == ONNX for each in engines)
    if has_onnx:
        return sorted(engines, key=lambda each: (each.name, each.device) != ONNX), ()
    if not precision_named(bundle.dtype).on_cpu:
        why = f"ONNX Runtime has no {bundle.dtype} kernels on the CPU"
    else:
        try:
            return [make_engine(*ONNX), *engines], ()
        except EngineError as error:
            why = str(error)
    return list(engines), (f"there is no rung of the ONNX graphs alone: {why}",)


def _pytorch_rung(reference: Reference) -> Rung:
    """Diffusers' own pipeline against the gates when these run everything: nothing may differ."""
    subnet = reference.subnet
    calls = tuple(
        CallParity(
            call=step,
            step=step,
            timestep=subnet.timesteps[step],
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
    is_full = all(action is Action.RUN for row in subnet.actions for action in row)
    quality = (
        "the SubNet runs everything: its picture is diffusers' own"
        if is_full
        else "the SubNet leaves blocks out: how its picture differs from diffusers' is its quality, "
        "and no part of parity"
    )
    return Rung(
        name="gated PyTorch, every block run",
        against="diffusers' own pipeline",
        precision="float32",
        calls=calls,
        finals={},
        psnr=math.inf if not failures else math.nan,
        repeats=True,
        notes=(quality,),
        failures=tuple(failures),
    )
