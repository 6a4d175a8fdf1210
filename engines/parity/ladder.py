"""One rung: an engine against the gated reference, call by call and on its own, twice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import NotFiniteError
from engines.parity.measure import MISSING, compare, psnr
from engines.parity.record import AGAINST, CallParity, Rung
from engines.parity.reference import images_of, picture_of
from engines.parity.replay import replay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from engines.parity.floor import Floor
    from engines.parity.measure import Difference
    from engines.parity.reference import Reference
    from engines.parity.replay import Replayed
    from engines.runner import Result, Runner

    Array = NDArray[Any]

LATENTS, DECODER = "latents", "decoder"


@dataclass(frozen=True)
class _EngineRun:
    """A run of the engine on its own.

    Attributes:
        inputs: the denoiser's, of the calls that it came to.
        result: if it came to an end.
        trouble: what stopped it, if something did.
    """

    inputs: tuple[Array, ...]
    result: Result | None
    trouble: str

    @property
    def tensors(self) -> list[Array]:
        """All that it made."""
        if self.result is None:
            return [*self.inputs]
        return [*self.inputs, self.result.latents, self.result.images]


@dataclass(frozen=True)
class _Forced:
    """One call on the reference's inputs, made twice.

    Attributes:
        first: what it gave, measured.
        again: likewise, the second time.
        repeats: whether both are the same bit for bit.
    """

    first: dict[str, Difference]
    again: dict[str, Difference]
    repeats: bool


@dataclass(frozen=True)
class _Pass:
    """The whole schedule once, on its own and on given inputs.

    Attributes:
        calls: measured.
        finals: measured.
        run: the one on its own.
    """

    calls: tuple[CallParity, ...]
    finals: dict[str, Difference]
    run: _EngineRun

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence each, in order of the calls."""
        strayed = next((c for c in self.calls if _strays(c)), None)
        found = [s for call in self.calls for s in _call_failures(call, strayed=call is strayed)]
        final, decoder = self.finals[LATENTS], self.finals[DECODER]
        if self.run.result is not None and not final.passed:
            found.append(f"the final latents differ by {_amounts(final)}")
        if not decoder.passed:
            found.append(
                "the picture decoded from the reference's final latents differs by "
                f"{_amounts(decoder)}"
            )
        return (*found, *([self.run.trouble] if self.run.trouble else []))


def climb(
    runner: Runner,
    reference: Reference,
    floor: Floor,
    *,
    name: str,
    k: float,
    report: Callable[[str], None],
) -> tuple[Rung, NDArray[np.uint8]]:
    """Compare what `runner` computes with `reference`; a difference of `k` floors is allowed.

    The run on its own comes first, while the caches are empty, and again when they are full of what
    the given inputs left there: state that a call does not write itself shows as a second run that
    differs from the first. In between, PyTorch and the engine make every call side by side.

    Args:
        runner: fresh, as nothing has run on it.
        reference: to compare with.
        floor: of the precision that `runner` computes in.
        name: of the rung.
        k: how many floors.
        report: called with a few words about what is being done.

    Returns:
        The rung, and its picture; black if there is none.
    """
    climber = _Climber(runner, reference, floor, k)
    report(f"{name}: first run")
    run = climber.run()
    report(f"{name}: every call on PyTorch's inputs")
    forced = climber.forced()
    first = climber.measured(run, [call.first for call in forced])
    report(f"{name}: second run")
    second = climber.measured(climber.run(), [call.again for call in forced])
    unlike = _unlike(name, first.run, second.run, forced)
    expected = picture_of(reference.gated)
    result = first.run.result
    shown = np.zeros_like(expected) if result is None else result.images[0]
    rung = Rung(
        name=name,
        against=AGAINST,
        precision=floor.precision,
        calls=first.calls,
        finals=first.finals,
        psnr=math.nan if result is None else psnr(shown, expected),
        repeats=not unlike,
        notes=unlike,
        failures=(
            *first.failures,
            *(f"second pass: {f}" for f in second.failures if f not in first.failures),
        ),
    )
    return rung, shown


@dataclass(frozen=True)
class _Climber:
    """What both passes of a rung share."""

    runner: Runner
    reference: Reference
    floor: Floor
    k: float

    @property
    def most(self) -> float:
        """How many floors what the denoiser makes may be off."""
        return self.floor.most or self.k

    def run(self) -> _EngineRun:
        """The engine on its own."""
        inputs: list[Array] = []

        def keep(number: int, sample: Array, prediction: Array | None) -> None:
            del number, prediction
            inputs.append(sample.copy())

        given = self.reference.inputs
        try:
            result = self.runner.run(
                given.prompt,
                negative=given.negative,
                guidance=given.guidance,
                latents=given.latents,
                seed=given.seed,
                pictures=self.runner.bundle.example_pictures,
                on_call=keep,
            )
        except NotFiniteError as error:
            return _EngineRun(tuple(inputs), None, str(error))
        return _EngineRun(tuple(inputs), result, "")

    def forced(self) -> list[_Forced]:
        """Every call on the reference's inputs and caches, in PyTorch's order."""
        given = self.reference.inputs
        self.runner.prepare(
            given.prompt,
            negative=given.negative,
            guidance=given.guidance,
            pictures=self.runner.bundle.example_pictures,
            latents=given.latents,
            seed=given.seed,
        )
        return [self._forced(call) for call in replay(self.reference)]

    def _forced(self, call: Replayed) -> _Forced:
        first, again = (self.runner.call(call.number, call.sample, call.reads) for _ in range(2))
        measured = self._compared(call, first)
        if _same(list(first.values()), list(again.values())):
            return _Forced(measured, measured, repeats=True)
        return _Forced(measured, self._compared(call, again), repeats=False)

    def measured(self, run: _EngineRun, forced: list[dict[str, Difference]]) -> _Pass:
        """One pass: a run on its own, and the calls on given inputs."""
        bundle = self.runner.bundle
        calls = tuple(
            CallParity(number, call.step, call.timestep, bundle.graphs[call.graph], found, free)
            for number, (call, found, free) in enumerate(
                zip(bundle.calls, forced, self._frees(run.inputs), strict=True)
            )
        )
        return _Pass(calls, self._finals(run.result), run)

    def _compared(self, call: Replayed, outputs: Mapping[str, Array]) -> dict[str, Difference]:
        expected = {name: call.made[name] for name in outputs if name in call.made}
        graphs = [each.graph for each in self.runner.bundle.calls]
        floors = {name: self.floor.of(call.number, graphs, name) for name in expected}
        return compare(expected, outputs, floors, self.most)

    def _frees(self, inputs: Sequence[Array]) -> list[Difference]:
        """The denoiser's inputs on the engine's own trajectory, up to the call where it stopped."""
        calls = self.runner.bundle.calls
        found = {str(number): sample for number, sample in enumerate(inputs)}
        expected = {n: self.reference.sample(calls[int(n)].step) for n in found}
        floors = {n: self.floor.free[int(n)] for n in found}
        measured = compare(expected, found, floors, self.most)
        return [measured.get(str(number), MISSING) for number in range(len(calls))]

    def _finals(self, result: Result | None) -> dict[str, Difference]:
        reference, floor = self.reference, self.floor
        expected = {LATENTS: reference.latents, DECODER: images_of(reference.gated)}
        found = {DECODER: self.runner.decode(reference.latents)}
        if result is None:
            expected.pop(LATENTS)
        else:
            found[LATENTS] = result.latents
        finals = {LATENTS: MISSING}
        for name, of, k in ((LATENTS, floor.latents, self.most), (DECODER, floor.decoder, self.k)):
            if name in expected:
                finals |= compare({name: expected[name]}, found, {name: of}, k)
        return finals


def _strays(call: CallParity) -> bool:
    """Whether the engine's own trajectory is off here; calls it did not reach are not."""
    return call.free is not None and call.free is not MISSING and not call.free.passed


def _call_failures(call: CallParity, *, strayed: bool) -> list[str]:
    """What is off at a call; on the engine's own trajectory, only where it `strayed` first."""
    name, worst = call.worst
    found = []
    if strayed and call.free is not None:
        found.append(
            f"{call.where}: on its own trajectory, the denoiser's input 'sample' differs from here on, by "
            f"{_amounts(call.free)}"
        )
    if not worst.passed:
        found.append(f"{call.where}: {name!r} differs by {_amounts(worst)}")
    return found


def _amounts(difference: Difference) -> str:
    return (
        f"{difference.relative:.2e} from PyTorch, allowed is {difference.allowed:.1e} "
        f"(rounding makes {difference.floor:.1e})"
    )


def _unlike(
    name: str, first: _EngineRun, second: _EngineRun, forced: Sequence[_Forced]
) -> tuple[str, ...]:
    """Where two equal passes differ bit for bit; empty if nowhere."""
    if not _same(first.tensors, second.tensors):
        where = "on its own trajectory"
    elif off := [number for number, call in enumerate(forced) if not call.repeats]:
        where = f"at call {off[0]}"
    else:
        return ()
    sentence = (
        f"the second pass is not bit for bit the first ({where}): {name} is not "
        "deterministic here, or something is left over in a cache; both passes were held to PyTorch"
    )
    return (sentence,)


def _same(first: Sequence[Array], second: Sequence[Array]) -> bool:
    """Whether the tensors are equal bit for bit."""
    return len(first) == len(second) and all(
        one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True)
    )
