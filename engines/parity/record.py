"""The verdict on a bundle: the rungs of the ladder and their differences."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.parity.measure import Difference

SCHEMA = 3
K = 5.0
"""Default tolerance of a rung, in floors."""


@dataclass(frozen=True)
class CallParity:
    """One call of the program on a rung, against the rung below.

    Attributes:
        call: its number.
        step: of the SubNet.
        timestep: of the sampler.
        graph: file of the step graph; empty on the rung of PyTorch.
        forced: each output when the call gets the reference's inputs and caches.
        free: the denoiser's input when the rung runs on its own; None where it does not.
    """

    call: int
    step: int
    timestep: float
    graph: str
    forced: dict[str, Difference]
    free: Difference | None

    @property
    def worst(self) -> tuple[str, Difference]:
        """The output that is off most."""
        return max(self.forced.items(), key=lambda item: item[1].excess)

    @property
    def where(self) -> str:
        """For sentences."""
        graph = f", {self.graph}" if self.graph else ""
        return f"call {self.call} (step {self.step}, timestep {self.timestep:g}{graph})"


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder.

    Attributes:
        name: what was looked at.
        against: what it was compared with.
        precision: that it computes in; empty where nothing is computed.
        calls: every call that was compared.
        finals: of a whole run, `latents`, and `decoder`, the picture decoded from the reference's latents.
        psnr: of the picture, in dB, against the reference's; infinite if equal, NaN if none.
        repeats: whether what was done twice is the same bit for bit.
        notes: what else there is to know; no failure.
        failures: one sentence each, in order of the steps.
    """

    name: str
    against: str
    precision: str
    calls: tuple[CallParity, ...]
    finals: dict[str, Difference]
    psnr: float
    repeats: bool
    notes: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return not self.failures

    @property
    def worst(self) -> Difference | None:
        """The output of a call that is off most."""
        found = (call.worst[1] for call in self.calls if call.forced)
        return max(found, key=lambda each: each.excess, default=None)

    @property
    def excess(self) -> float:
        """The largest difference as a fraction of the tolerance; infinite if not finite."""
        forced = (difference for call in self.calls for difference in call.forced.values())
        free = (call.free for call in self.calls if call.free is not None)
        return max((each.excess for each in (*forced, *free, *self.finals.values())), default=0.0)


AGAINST = "gated PyTorch in float32"
"""What engines are compared with."""


@dataclass(frozen=True)
class Parity:
    """The verdict on a bundle.

    Attributes:
        prompt: what was sampled.
        negative: the negative prompt; empty for none.
        guidance: scale.
        seed: of the noises.
        k: how many floors a rung may be off.
        rungs: the manifest's, that of gated PyTorch, and one per engine.
        quality: what the SubNet itself changes, in dB of the picture against the full sampler's: no part
            of parity.
        notes: rungs that there are not, and why.
        blocks: the first block that is off, per engine, with `--bisect`.
    """

    prompt: str
    negative: str
    guidance: float
    seed: int
    k: float
    rungs: tuple[Rung, ...]
    quality: float
    notes: tuple[str, ...]
    blocks: tuple[str, ...] = ()

    @property
    def manifest(self) -> Rung:
        """The rung of the calls, caches and coefficients."""
        return self.rungs[0]

    @property
    def engines(self) -> tuple[Rung, ...]:
        """The rungs above PyTorch."""
        return tuple(rung for rung in self.rungs if rung.against == AGAINST)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence each; none if parity holds."""
        several = sum(bool(rung.failures) for rung in self.rungs) > 1
        return tuple(
            f"{rung.name}: {failure}" if several else failure
            for rung in self.rungs
            for failure in rung.failures
        )

    @property
    def passed(self) -> bool:
        """Whether parity holds."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; numbers that are not finite as `inf` and `nan`."""
        record: dict[str, Any] = _as_json(dataclasses.asdict(self))
        for rung, data in zip(self.rungs, record["rungs"], strict=True):
            data["passed"] = rung.passed
        head = {"schema": SCHEMA, "kind": "stepcarve-parity", "passed": self.passed}
        return {**head, "failures": list(self.failures), **record}


@dataclass(frozen=True)
class ParityPictures:
    """`[height, width, 3]` uint8 each, of a video `[frames, height, width, 3]`.

    Attributes:
        full: by diffusers' own pipeline, every block at every step.
        reference: the SubNet in PyTorch.
        engines: the SubNet on each engine, by the name of its rung.
    """

    full: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    engines: dict[str, NDArray[np.uint8]]


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
