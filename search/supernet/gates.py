"""What a gated block emits at one step, and what the step passes to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.core.actions import Source
from search.model.shapes import tensors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from search.core.actions import ActionRecord

RUN, REUSE = 0, 1
"""Indices of the common choices on the gates' last axis."""
Held = dict[Source, Tensor]
"""What is remembered of a port."""
Layout = tuple[tuple[Source, ...], ...]
"""Per port, which sources are remembered."""


@dataclass(frozen=True)
class Carry:
    """The carry from one step to the next: per port, the sources of later actions."""

    held: tuple[Held, ...] = ()

    def of(self, port: int) -> Held:
        """What is remembered of a port; nothing before the first step that has it."""
        return self.held[port] if port < len(self.held) else {}

    @property
    def tensors(self) -> list[Tensor]:
        """All that gradients may go through."""
        return [tensor for held in self.held for tensor in held.values()]

    @property
    def layout(self) -> Layout:
        """What is remembered of each port."""
        return tuple(map(tuple, self.held))

    @staticmethod
    def of_layout(layout: Layout, tensors: Sequence[Tensor]) -> Carry:
        """The carry of this layout with these tensors, in the order of `tensors`."""
        rest = iter(tensors)
        return Carry(tuple({source: next(rest) for source in held} for held in layout))

    def only(self, needed: Sequence[Collection[Source]]) -> Carry:
        """Without what no later step needs, given per port."""
        return Carry(
            tuple(
                {source: tensor for source, tensor in held.items() if source in wanted}
                for held, wanted in zip(self.held, needed, strict=True)
            )
        )


class GatedStep:
    """One step in progress: its gates, its incoming carry, its outgoing carry.

    `gates` are one row `[A]` per block, and `weights` their values, known without asking the device.
    """

    def __init__(self, gates: tuple[Tensor, ...], weights: list[list[float]], came: Carry) -> None:
        self.gates, self.weights, self.came = gates, weights, came
        self.held: dict[int, Held] = {}

    @property
    def outputs(self) -> dict[int, Tensor]:
        """What the ports emit."""
        return {port: held[Source.EMITTED] for port, held in self.held.items()}

    def emit(
        self,
        block: int,
        port: int,
        fresh: Tensor | None,
        base: Tensor | None,
        choices: Sequence[ActionRecord],
    ) -> None:
        """Compute what a port emits, and what it carries to later steps.

        `fresh` may be missing where its gate is 0 and wants no gradient; `base` where no action that
        is allowed wants it. A source that no earlier step has carried must have weight 0.
        """
        kept = {source for record in choices for source in record.row}
        gates, weights, came = self.gates[block], self.weights[block], self.came.of(port)
        now = came | {
            s: t for s, t in ((Source.FRESH, fresh), (Source.BASE, base)) if t is not None
        }
        options = [_emitted(record, now) for record in choices]
        held = {Source.EMITTED: _mix(gates, weights, options)}
        renewed = {
            Source.RESIDUAL: None if fresh is None or base is None else fresh - base,
            Source.LAST: fresh,
            Source.PREVIOUS: came.get(Source.LAST, fresh),
        }
        run = weights[RUN]
        either = torch.stack([gates[RUN], 1 - gates[RUN]])
        for source, new in renewed.items():
            if source in came:
                held[source] = _mix(either, [run, 1 - run], [new, came[source]])
            elif source in kept and new is not None:
                held[source] = new
        self.held[port] = held

    def carry(self, ports: int) -> Carry:
        """The outgoing carry; a block that was not called passes on its incoming one."""
        return Carry(tuple(self.held.get(i) or self.came.of(i) for i in range(ports)))


def _emitted(record: ActionRecord, sources: Held) -> Tensor | None:
    """What an action emits; None if a source is missing."""
    weights = iter(record.default)
    total: Tensor | None = None
    for source, fixed in record.row.items():
        if source not in sources:
            return None
        weight = next(weights) if fixed is None else fixed
        term = sources[source] if weight == 1 else weight * sources[source]
        total = term if total is None else total + term
    return total


@dataclass(frozen=True)
class _PortOf:
    """Stands for the tensor of a port."""

    port: int


@dataclass(frozen=True)
class Template:
    """The structure of a block's output, with ports as leaves."""

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec

    @staticmethod
    def of(output: Any, ports: dict[int, int]) -> Template:
        """The template of `output`, whose i-th tensor is port `ports[i]`, if any; a port may occur twice."""
        leaves, spec = pytree.tree_flatten(output)
        tensors = tensors_of(output)
        known = {id(tensors[index]): _PortOf(port) for index, port in ports.items()}
        return Template(tuple(known.get(id(leaf), leaf) for leaf in leaves), spec)

    @property
    def is_complete(self) -> bool:
        """Whether all its leaves are ports."""
        return not any(isinstance(leaf, Tensor) for leaf in self.leaves)

    def filled(self, tensors: dict[int, Tensor]) -> Any:
        """The output with the tensors of the ports."""
        leaves = [tensors[x.port] if isinstance(x, _PortOf) else x for x in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


class _Mix(torch.autograd.Function):
    """A sum weighted by gates. A single gate of 1 passes its tensor on; a gate of 0 stops gradients."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weights: Sequence[float], *options: Tensor) -> Tensor:
        """Gates `[A]`, their values, and up to A tensors of one shape."""
        ctx.save_for_backward(*options)
        ctx.weights, ctx.gates = weights, (gates.shape, gates.dtype, gates.device)
        return _weighed(weights, options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of a gate is the inner product of its tensor with the output's gradient."""
        options = ctx.saved_tensors
        shape, dtype, device = ctx.gates
        gates = None
        if ctx.needs_input_grad[0]:
            gates = torch.zeros(shape, dtype=dtype, device=device)
            for i, option in enumerate(options):
                gates[i] = (wanted.to(dtype) * option.to(dtype)).sum()
        passed = [w * wanted if w else None for w in ctx.weights[: len(options)]]
        return gates, None, *passed


def _mix(gates: Tensor, weights: Sequence[float], options: Sequence[Tensor | None]) -> Tensor:
    """Options weighted by gates; differentiable only if gradients are enabled.

    An option may be None where its weight is 0.
    """
    assert all(w == 0 or o is not None for w, o in zip(weights, options, strict=True)), "no source"
    if not torch.is_grad_enabled():
        return _weighed(weights, options)
    there = [i for i, option in enumerate(options) if option is not None]
    if len(there) < len(options):
        gates, weights = gates[there], [weights[i] for i in there]
    given = [options[i] for i in there]
    return cast("Tensor", _Mix.apply(gates, weights, *given))  # type: ignore[no-untyped-call]


def _weighed(weights: Sequence[float], options: Sequence[Tensor | None]) -> Tensor:
    pairs = [(w, o) for w, o in zip(weights, options, strict=False) if w and o is not None]
    if len(pairs) == 1 and pairs[0][0] == 1:
        return pairs[0][1]
    if not pairs:
        return torch.zeros_like(next(o for o in options if o is not None))
    total = pairs[0][0] * pairs[0][1]
    for weight, option in pairs[1:]:
        total = total + weight * option
    return total
