"""A sampler's calls with gated blocks, instead of whole calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from search.core.actions import Action, Source
from search.supernet.gates import REUSE, RUN, Carry, GatedStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.subnet import SubNet
    from search.model.body import Body
    from search.model.predictor import Predictor
    from search.supernet.gates import Layout
    from search.supernet.supernet import SuperNet

CHOICES = (Action.RUN, Action.REUSE, Action.DELTA, Action.SKIP, Action.FORECAST)
"""What a block may do at a call."""
Needed = tuple[frozenset[Source], ...]
"""Per port, what later calls read."""


class GatedPredictor:
    """Noise predictions of a SuperNet's calls, in order, and then from the first again.

    It is used as a `Predictor` is, so rows are fitted and refined through gated calls as through whole
    ones. It is differentiable in the gates, too, and in what calls hand on to each other.
    """

    def __init__(self, whole: Predictor | GatedPredictor, net: SuperNet, gates: Tensor) -> None:
        """Gate the calls for the prompts of `whole`.

        Args:
            whole: what predicts with whole calls.
            net: open; every step of it is a call.
            gates: `[T, N, A]`: calls, blocks, choices.
        """
        self.whole, self._net, self._gates = whole, net, gates
        self._weights = gates.detach().tolist()
        self._needed = _everything(net) if gates.requires_grad else _needed(net, self._weights)
        self._layouts: dict[int, Layout] = {0: ()}
        self._number, self._came = 0, list[Carry]()

    @property
    def bodies(self) -> list[Body]:
        """As in `Predictor`."""
        return self.whole.bodies

    @property
    def scales(self) -> tuple[float, ...]:
        """As in `Predictor`."""
        return self.whole.scales

    @property
    def size(self) -> int:
        """As in `Predictor`."""
        return self.whole.size

    @property
    def prompts(self) -> tuple[str, ...]:
        """As in `Predictor`."""
        return self.whole.prompts

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """As in `Predictor`."""
        return self.whole.noise_shape

    @property
    def chunks(self) -> int:
        """How many calls of the denoiser it takes for all pictures."""
        return len(self.bodies)

    def first(self, count: int) -> GatedPredictor:
        """For the first `count` prompts, all in one call."""
        return GatedPredictor(self.whole.first(count), self._net, self._gates)

    def alone(self, number: int) -> GatedPredictor:
        """For one of the prompts."""
        return GatedPredictor(self.whole.alone(number), self._net, self._gates)

    def of_chunks(self, numbers: Sequence[int]) -> GatedPredictor:
        """For the pictures of some of these calls, in order."""
        return GatedPredictor(self.whole.of_chunks(numbers), self._net, self._gates)

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The denoiser's input `[S, ...]` and a timestep `[]` -> noise predictions `[S, ...]`."""
        number = self._number
        came = self._came if number else [Carry()] * self.chunks
        parts = zip(torch.split(sample, self.size), self.bodies, came, strict=True)
        made = [self._call(number, part, timestep, body, carry) for part, body, carry in parts]
        self._number = (number + 1) % len(self._weights)
        self._came = [carry for _, carry in made] if self._number else []
        return torch.cat([prediction for prediction, _ in made])

    def _call(
        self, number: int, sample: Tensor, timestep: Tensor, body: Body, came: Carry
    ) -> tuple[Tensor, Carry]:
        """One call of the denoiser; on the way back it is computed again."""

        def run(part: Tensor, time: Tensor, gates: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            carry = Carry.of_layout(self._layouts[number], tensors)
            now = GatedStep(gates.unbind(), self._weights[number], carry)
            made, gone = self._net.call(number, part, time.to(torch.float32), body, now)
            gone = gone.only(self._needed[number])
            self._layouts[number + 1] = gone.layout
            return made, *gone.tensors

        given = (sample, timestep, self._gates[number], *came.tensors)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            made, *tensors = checkpoint(run, *given, use_reentrant=True)
        else:
            made, *tensors = run(*given)
        return made, Carry.of_layout(self._layouts[number + 1], tensors)


def gates_of(net: SuperNet, subnet: SubNet) -> Tensor:
    """The gates of 0 and 1 that do what `subnet` does, `[T, N, A]`.

    The blocks of a whole call that is left out are reused, so that the SuperNet does not compute them.
    """
    gates = torch.zeros(net.shape, device=net.pipeline.denoiser.device)
    ran = set[int]()
    for call, row in enumerate(subnet.actions):
        for block, action in enumerate(row):
            runs = action is net.full.actions[call][block]
            gates[call, block, RUN if runs else net.choices.index(action)] = 1
        for block in net.topology.call_blocks:
            if row[block] is Action.RUN:
                ran.add(block)
            elif block in ran:
                inside = [other for other in net.inside(block) if other != block]
                gates[call, inside] = 0
                gates[call, inside, REUSE] = 1
    return gates


def _everything(net: SuperNet) -> list[Needed]:
    return [(frozenset(Source),) * len(net.topology.ports)] * net.full.steps


def _needed(net: SuperNet, weights: Sequence[Sequence[Sequence[float]]]) -> list[Needed]:
    """Per call, what it must pass on: what later calls read with these gates."""
    later: Needed = (frozenset(),) * len(net.topology.ports)
    found = []
    for gates in reversed(weights):
        found.append(later)
        later = tuple(
            _read(net, gates[port.block], wanted)
            for port, wanted in zip(net.topology.ports, later, strict=True)
        )
    return found[::-1]


def _read(net: SuperNet, gates: Sequence[float], wanted: frozenset[Source]) -> frozenset[Source]:
    """What a call reads of a port to emit, and to hand on what is wanted of it."""
    records = [record for record, gate in zip(net.records, gates, strict=True) if gate]
    read = {source for record in records for source in record.row}
    if gates[RUN] != 1:
        read |= wanted - {Source.EMITTED}
    if gates[RUN] and Source.PREVIOUS in wanted:
        read.add(Source.LAST)
    return frozenset(read - {Source.FRESH, Source.BASE})
