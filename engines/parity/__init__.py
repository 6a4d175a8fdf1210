"""How closely engines reproduce diffusers: a ladder of comparisons, its tolerance measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity.inputs import given_latents, inputs_of
from engines.parity.measure import psnr, relative_l2
from engines.parity.record import K, Parity, ParityPictures, Rung
from search.core.precision import precision_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engines.base import Engine
    from engines.parity.inputs import RunInputs
    from engines.parity.rungs import RungContext
    from exporter.bundle import Bundle

__all__ = [
    "K",
    "Parity",
    "ParityPictures",
    "Rung",
    "given_latents",
    "psnr",
    "relative_l2",
    "verify",
]

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
    negative: str = "",
    guidance: float | None = None,
    seed: int = 0,
    k: float = K,
    bisect: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Parity, ParityPictures]:
    """Climb the ladder from the pipeline that `bundle` came from to `engines` on it.

    The rungs (`rungs.py`): the manifest against the SubNet; diffusers' own pipeline against PyTorch
    gated to run everything, which must be equal; then PyTorch gated by the SubNet against the ONNX
    graphs on ONNX Runtime's CPU provider, and against each engine.

    Args:
        bundle: to verify.
        engines: to run it on.
        pipeline: directory of the pipeline the bundle was exported from.
        prompt: what to sample; a class name or number for class-conditional pipelines.
        negative: prompt; empty for none.
        guidance: scale; None is the bundle's.
        seed: of the noises.
        k: a rung holds if nothing differs by more than `k` times what rounding alone makes.
        bisect: name the first block that is off, where a call is.
        report: called with a few words about what is being done.

    Raises:
        SearchError: the pipeline is not the one the bundle was exported from.
        EngineError: the bundle cannot be run at all, or not with these inputs.
    """
    from engines.parity.reference import picture_of
    from engines.parity.rungs import plan_rungs

    if not k > 0:
        msg = f"k is {k:g}; give a number above 0"
        raise EngineError(msg)
    bundle.check()
    inputs = inputs_of(bundle, prompt=prompt, negative=negative, guidance=guidance, seed=seed)
    engines, notes = _with_onnx(bundle, engines)
    context = _context(bundle, engines, pipeline, inputs, k=k, bisect=bisect, report=report)
    reference = context.reference
    climbed = {rung.name: rung.climb(context) for rung in plan_rungs(bundle, engines)}
    shown = {name: each.picture for name, each in climbed.items() if each.picture is not None}
    pictures = ParityPictures(picture_of(reference.full), picture_of(reference.gated), shown)
    parity = Parity(
        prompt=prompt,
        negative=negative,
        guidance=inputs.guidance,
        seed=seed,
        k=k,
        rungs=tuple(each.rung for each in climbed.values()),
        quality=psnr(pictures.reference, pictures.full),
        notes=notes,
        blocks=tuple(each.block for each in climbed.values() if each.block),
    )
    return parity, pictures


def _context(
    bundle: Bundle,
    engines: Sequence[Engine],
    pipeline: Path,
    inputs: RunInputs,
    *,
    k: float,
    bisect: bool,
    report: Callable[[str], None],
) -> RungContext:
    """What the rungs compare with: the run in PyTorch, and its noise floor in each precision."""
    from engines.parity.floor import measure_floor
    from engines.parity.reference import run_reference
    from engines.parity.rungs import RungContext, precision_of

    probes = probed(bundle)
    report("run PyTorch reference")
    steps = [bundle.calls[number].step for number in probes]
    reference = run_reference(bundle, pipeline, inputs, probes=steps)
    report("measure the noise floor")
    precisions = dict.fromkeys(precision_of(engine, bundle) for engine in engines)
    floors = {each: measure_floor(reference, each, probes) for each in precisions}
    return RungContext(reference, floors, k, bisect, report)


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


def _with_onnx(
    bundle: Bundle, engines: Sequence[Engine]
) -> tuple[Sequence[Engine], tuple[str, ...]]:
    """The engines to climb, that of the ONNX graphs first; and why that one is not there."""
    if any((each.name, each.device) == ONNX for each in engines):
        return sorted(engines, key=lambda each: (each.name, each.device) != ONNX), ()
    dtypes = (bundle.dtype, *bundle.parts.values())
    if lacking := [each for each in dtypes if not precision_named(each).on_cpu]:
        why = f"ONNX Runtime has no {lacking[0]} kernels on the CPU"
    else:
        try:
            return [make_engine(*ONNX), *engines], ()
        except EngineError as error:
            why = str(error)
    return engines, (f"there is no rung of the ONNX graphs alone: {why}",)
