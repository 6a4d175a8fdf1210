"""One rung: an engine against the gated reference, call by call and on its own, twice."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import NotFiniteError
from engines.parity.measure import MISSING, compare, psnr
from engines.parity.record import CallParity, Rung
from engines.parity.reference import images_of, picture_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from engines.parity.floor import Floor
    from engines.parity.measure import Difference
    from engines.parity.reference import Reference
    from engines.runner import Result, Runner

    Array = NDArray[Any]

AGAINST = "gated PyTorch in float32"
LATENTS, DECODER = "latents", "decoder"


@dataclass(frozen=True)
class _Start:
    """What a run begins from.

    Attributes:
        prompt: what to show.
        seed: of the noises.
        latents: given ones, or None.
    """

    prompt: str
    seed: int
    latents: NDArray[np.float32] | None


@dataclass(frozen=True)
class _Pass:
    """The whole schedule once, on its own and then on given inputs.

    Attributes:
        calls: measured.
        finals: measured.
        trouble: what stopped the run on its own, if something did.
        digests: of everything that was computed, in order.
        result: of the run on its own, if it came to an end.
    """

    calls: tuple[CallParity, ...]
    finals: dict[str, Difference]
    trouble: str
    digests: tuple[str, ...]
    result: Result | None

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence each, in order of the calls."""
        strayed = next((c for c in self.calls if _strays(c)), None)
        found = [s for call in self.calls for s in _call_failures(call, strayed=call is strayed)]
        final, decoder = self.finals[LATENTS], self.finals[DECODER]
        if self.result is not None and not final.passed:
            found.append(f"the final latents differ by {_amounts(final)}")
        if not decoder.passed:
            found.append(
                "the picture decoded from the reference's final latents differs by "
                f"{_amounts(decoder)}"
            )
        return (*found, *([self.trouble] if self.trouble else []))


def climb(
    runner: Runner,
    reference: Reference,
    floor: Floor,
    *,
    name: str,
    k: float,
    seed: int,
    latents: NDArray[np.float32] | None,
    report: Callable[[str], None],
) -> tuple[Rung, NDArray[np.uint8]]:
    """Compare what `runner` computes with `reference`; a difference of `k` floors is allowed.

    The run on its own comes first, while the caches are empty, and again when they are full of what
    the given inputs left there: state that a call does not write itself shows as a second pass that
    differs from the first.

    Args:
        runner: fresh, as nothing has run on it.
        reference: to compare with.
        floor: of the precision that `runner` computes in.
        name: of the rung.
        k: how many floors.
        seed: of the noises, as in the reference.
        latents: what to begin from if it is not noise.
        report: told, in a few words, what is being done.

    Returns:
        The rung, and its picture; black if there is none.
    """
    climber = _Climber(runner, reference, floor, k, _Start(reference.prompt, seed, latents))
    report(f"{name}: first pass")
    first = climber.walk(None)
    report(f"{name}: second pass")
    second = climber.walk(first)
    repeats = first.digests == second.digests
    expected = picture_of(reference.gated)
    shown = np.zeros_like(expected) if first.result is None else first.result.images[0]
    rung = Rung(
        name=name,
        against=AGAINST,
        precision=floor.precision,
        calls=first.calls,
        finals=first.finals,
        psnr=math.nan if first.result is None else psnr(shown, expected),
        repeats=repeats,
        notes=() if repeats else (_unlike(name, first, second),),
        failures=(
            *first.failures,
            *(f"second pass: {f}" for f in second.failures if f not in first.failures),
        ),
    )
    return rung, shown


@dataclass(frozen=True)
class _Climber:
    """What all passes of a rung share."""

    runner: Runner
    reference: Reference
    floor: Floor
    k: float
    start: _Start

    def walk(self, before: _Pass | None) -> _Pass:
        """One pass; what is bit for bit that of the pass `before` is not measured again."""
        inputs, result, trouble = self._run()
        known = None if before is None else before.digests
        self.runner.prepare(self.start.prompt)
        calls, digests = [], [_digest(inputs), _digest(_arrays(result))]
        frees = self._frees(inputs)
        for number in range(len(self.runner.bundle.calls)):
            outputs = self._forced(number)
            digests.append(_digest(list(outputs.values())))
            if known is not None and before is not None and known[2 + number] == digests[-1]:
                forced = before.calls[number].forced
            else:
                forced = self._compared(number, outputs)
            calls.append(self._call(number, forced, frees[number]))
        finals = self._finals(result)
        return _Pass(tuple(calls), finals, trouble, tuple(digests), result)

    def _run(self) -> tuple[list[Array], Result | None, str]:
        """The denoiser's inputs, the result, and what stopped the run if something did."""
        inputs: list[Array] = []

        def keep(number: int, sample: Array, prediction: Array | None) -> None:
            del number, prediction
            inputs.append(sample.copy())

        start = self.start
        try:
            result = self.runner.run(
                start.prompt, latents=start.latents, seed=start.seed, on_call=keep
            )
        except NotFiniteError as error:
            return inputs, None, str(error)
        return inputs, result, ""

    def _forced(self, number: int) -> dict[str, Array]:
        """What call `number` gives for the reference's inputs."""
        call, reference = self.runner.bundle.calls[number], self.reference
        reads = {name: reference.value(call.step, name) for name in call.reads}
        return dict(self.runner.call(number, reference.sample(call.step), reads))

    def _compared(self, number: int, outputs: Mapping[str, Array]) -> dict[str, Difference]:
        bundle = self.runner.bundle
        expected = self.reference.expected(bundle.calls[number].step, list(outputs))
        graphs = [call.graph for call in bundle.calls]
        floors = {name: self.floor.of(number, graphs, name) for name in expected}
        return compare(expected, outputs, floors, self.k)

    def _frees(self, inputs: list[Array]) -> list[Difference]:
        """The denoiser's inputs on the way the engine followed; those it did not come to are missing."""
        calls = self.runner.bundle.calls
        found = {str(number): sample for number, sample in enumerate(inputs)}
        expected = {n: self.reference.sample(calls[int(n)].step) for n in found}
        floors = {n: self.floor.free[int(n)] for n in found}
        measured = compare(expected, found, floors, self.k)
        return [measured.get(str(number), MISSING) for number in range(len(calls))]

    def _finals(self, result: Result | None) -> dict[str, Difference]:
        reference, floor = self.reference, self.floor
        expected = {LATENTS: reference.latents, DECODER: images_of(reference.gated)}
        found = {DECODER: self.runner.decode(reference.latents)}
        if result is None:
            expected.pop(LATENTS)
        else:
            found[LATENTS] = result.latents
        floors = {LATENTS: floor.latents, DECODER: floor.decoder}
        return {LATENTS: MISSING, **compare(expected, found, floors, self.k)}

    def _call(self, number: int, forced: dict[str, Difference], free: Difference) -> CallParity:
        bundle = self.runner.bundle
        call = bundle.calls[number]
        return CallParity(number, call.step, call.timestep, bundle.graphs[call.graph], forced, free)


def _strays(call: CallParity) -> bool:
    """Whether the way that the engine followed is off here; what it did not come to is not."""
    return call.free is not None and call.free is not MISSING and not call.free.passed


def _call_failures(call: CallParity, *, strayed: bool) -> list[str]:
    """What is off at a call; on the engine's own way, only where it `strayed` first."""
    name, worst = call.worst
    found = []
    if strayed and call.free is not None:
        found.append(
            f"{call.where}: on its own way, the denoiser's input 'sample' differs from here on, by "
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


def _unlike(name: str, first: _Pass, second: _Pass) -> str:
    """Where a second pass is not the first."""
    at = next(
        n for n, p in enumerate(zip(first.digests, second.digests, strict=True)) if p[0] != p[1]
    )
    where = "on its own way" if at < 2 else f"at call {at - 2}"
    return (
        f"the second pass is not bit for bit the first ({where}): {name} is not "
        "deterministic here, or something is left over in a cache; both passes were held to PyTorch"
    )


def _arrays(result: Result | None) -> list[Array]:
    return [] if result is None else [result.latents, result.images]


def _digest(arrays: list[Array]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
