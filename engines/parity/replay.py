"""The bundle's calls in PyTorch, in order; tensors are freed after their last reader."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from engines.errors import EngineError
from search.core.names import PREDICTION
from search.model.body import places_of
from search.model.predictor import Predictor
from search.model.reference import gated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from engines.parity.reference import Reference
    from search.core.topology import Target

    Array = NDArray[Any]
    Observe = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True)
class Replayed:
    """One call of the bundle as PyTorch in float32 makes it.

    Attributes:
        number: of the call.
        step: of the SubNet.
        sample: the denoiser's input.
        reads: what the call gets from earlier ones, by name.
        made: what it computes, by name, in the order of the blocks; last the noise prediction, if it makes one.
    """

    number: int
    step: int
    sample: Array
    reads: dict[str, Array]
    made: dict[str, Array]


@dataclass(frozen=True)
class TorchDenoiser:
    """The denoiser of the reference, guidance applied, in one precision.

    Attributes:
        reference: whose denoiser it is.
        predictors: for the prompts, one per group of steps.
        dtype: that it computes in.
        wide: of the latents that it takes and the prediction that it returns.
        placeholders: what modules that do not run return; the same at all calls.
    """

    reference: Reference
    predictors: Sequence[Predictor]
    dtype: torch.dtype
    wide: torch.dtype
    placeholders: dict[str, Any] = field(default_factory=dict)

    def __call__(self, sample: Array, step: int) -> Array:
        """The noise prediction for the denoiser's input at `step`."""
        subnet = self.reference.subnet
        predictor = self.predictors[subnet.topology.group_of(step)]
        timestep = torch.tensor(subnet.timesteps[step])
        prediction: Array = predictor(torch.from_numpy(sample).to(self.wide), timestep).numpy()
        return prediction

    def call(self, step: int, sample: Array, reads: Mapping[str, Array], observe: Observe) -> Array:
        """The noise prediction of the call at `step` if it reads `reads`; `observe` sees what blocks emit."""
        reference = self.reference
        known = {reference.origin(step, name): tensor for name, tensor in reads.items()}
        names = reference.computed(step)

        def recall(step: int, target: Target) -> torch.Tensor | None:
            tensor = known.get((step, target))
            return None if tensor is None else torch.from_numpy(tensor).to(self.dtype)

        def see(_step: int, target: Target, tensor: torch.Tensor) -> None:
            observe(names[target], tensor)

        gates = gated(
            reference.opened.networks,
            reference.subnet,
            steps=[step],
            observe=see,
            recall=recall,
            placeholders=self.placeholders,
        )
        with torch.no_grad(), gates:
            return self(sample, step)


def replay(reference: Reference, *, inner: Collection[int] = ()) -> Iterator[Replayed]:
    """The calls in order; those numbered in `inner` give what every block emits, the others what is cached.

    Raises:
        EngineError: a call reads what no earlier call computes.
    """
    calls = reference.bundle.calls
    last = {
        reference.origin(call.step, name): number
        for number, call in enumerate(calls)
        for name in call.reads
    }
    caches: dict[tuple[int, Target] | None, Array] = {}
    denoiser = TorchDenoiser(reference, predictors_of(reference), torch.float32, torch.float32)
    for number, call in enumerate(calls):
        origins = {name: reference.origin(call.step, name) for name in call.reads}
        if missing := sorted(name for name in origins if origins[name] not in caches):
            msg = (
                f"call {number} (step {call.step}) reads {missing}, which no earlier call "
                "computes; export again"
            )
            raise EngineError(msg)
        reads = {name: caches[origin] for name, origin in origins.items()}
        computed = {(call.step, t): name for t, name in reference.computed(call.step).items()}
        read_later = {name for origin, name in computed.items() if origin in last}
        wanted = set(computed.values()) if number in inner else read_later | call.writes.keys()
        made = _made(denoiser, number, reads, wanted)
        caches |= {key: made[name] for key, name in computed.items() if name in read_later}
        caches = {key: tensor for key, tensor in caches.items() if last.get(key, -1) > number}
        yield Replayed(number, call.step, reference.sample(call.step), reads, made)
        del reads, made


def _made(
    denoiser: TorchDenoiser, number: int, reads: Mapping[str, Array], wanted: Collection[str]
) -> dict[str, Array]:
    """What call `number` computes of the `wanted`, and the noise prediction if it makes one."""
    reference = denoiser.reference
    call = reference.bundle.calls[number]
    found: dict[str, Array] = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        if name in wanted:
            found[name] = tensor.numpy(force=True).copy()

    denoiser.call(call.step, reference.sample(call.step), reads, keep)
    ordered = {
        name: found[name] for name in reference.computed(call.step).values() if name in found
    }
    if call.prediction is not None:
        # The pipeline's own prediction, not that of the denoiser by itself.
        ordered[PREDICTION] = reference.prediction(call.step)
    return ordered


def predictors_of(reference: Reference) -> list[Predictor]:
    """The denoiser of the reference as it computes now, with its conditions; one per group of steps."""
    inputs, subnet = reference.inputs, reference.subnet
    return [
        Predictor(
            reference.opened,
            (inputs.prompt,) * reference.bundle.latent_shape[0],
            guidance=inputs.guidance,
            negative=inputs.negative,
            noise_shape=subnet.binding.noise_shape,
            seed=inputs.seed,
            place=place,
        )
        for place in places_of(subnet)
    ]
