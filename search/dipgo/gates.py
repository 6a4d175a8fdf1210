"""Gates at work: what a block emits at one step, and what the step hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.model.trace import tensors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN, REUSE, DELTA = 0, 1, 2
"""Where the choices stand on the gates' last axis."""


@dataclass(frozen=True)
class Carry:
    """What one step hands to the next: per port, what its block emitted and its residual."""

    outputs: tuple[Tensor, ...] = ()
    residuals: tuple[Tensor | None, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """All that gradients may go through, outputs first."""
        return [*self.outputs, *(r for r in self.residuals if r is not None)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Carry:
        """The same with other tensors, in the order of `tensors`."""
        rest = iter(tensors[len(self.outputs) :])
        residuals = tuple(None if r is None else next(rest) for r in self.residuals)
        return Carry(tuple(tensors[: len(self.outputs)]), residuals)


class GatedStep:
    """One step in progress: its gates, what came in, what goes out.

    `gates` are one row `[A]` per block, and `weights` their values, known without asking the device;
    both are empty at step 0, where everything runs.
    """

    def __init__(self, gates: tuple[Tensor, ...], weights: list[list[float]], came: Carry) -> None:
        self.gates, self.weights, self.came = gates, weights, came
        self.outputs: dict[int, Tensor] = {}
        self.residuals: dict[int, Tensor] = {}

    def emit(self, block: int, port: int, fresh: Tensor | None, entered: Tensor | None) -> None:
        """Decide what a port emits, and its residual if the block's input is given.

        `fresh` may be missing where its gate is 0 and gradients are off.
        """
        if not self.gates:
            assert fresh is not None, "step 0 runs everything"
            self.outputs[port] = fresh
            if entered is not None:
                self.residuals[port] = fresh - entered
            return
        gates, weights = self.gates[block], self.weights[block]
        options = [fresh, self.came.outputs[port]]
        residual = self.came.residuals[port]
        if entered is not None and residual is not None:
            options.append(entered + residual)
            now = None if fresh is None else fresh - entered
            run = weights[RUN]
            either = torch.stack([gates[RUN], 1 - gates[RUN]])
            self.residuals[port] = _mix(either, [run, 1 - run], [now, residual])
        self.outputs[port] = _mix(gates, weights, options)

    def carry(self, ports: int) -> Carry:
        """What goes out; a block inside one that was not called hands on what it got."""
        came = self.came
        return Carry(
            tuple(self.outputs[i] if i in self.outputs else came.outputs[i] for i in range(ports)),
            tuple(
                self.residuals.get(i, came.residuals[i] if came.residuals else None)
                for i in range(ports)
            ),
        )


@dataclass(frozen=True)
class _PortOf:
    """In the place of a tensor: it is that of a port."""

    port: int


@dataclass(frozen=True)
class Template:
    """What a block returns, with its ports in the place of tensors."""

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec

    @staticmethod
    def of(output: Any, ports: dict[int, int]) -> Template:
        """Of `output`, whose i-th tensor is port `ports[i]` if there is one; it may stand twice."""
        leaves, spec = pytree.tree_flatten(output)
        tensors = tensors_of(output)
        known = {id(tensors[index]): _PortOf(port) for index, port in ports.items()}
        return Template(tuple(known.get(id(leaf), leaf) for leaf in leaves), spec)

    @property
    def is_complete(self) -> bool:
        """Whether the ports are all there is to it."""
        return not any(isinstance(leaf, Tensor) for leaf in self.leaves)

    def filled(self, tensors: dict[int, Tensor]) -> Any:
        """The output with the tensors of the ports."""
        leaves = [tensors[x.port] if isinstance(x, _PortOf) else x for x in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


class _Mix(torch.autograd.Function):
    """Tensors weighed by gates. A gate of 1 alone hands its tensor on; one of 0 stops gradients."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weights: Sequence[float], *options: Tensor) -> Tensor:
        """Gates `[A]`, their values, and up to A tensors of one shape."""
        ctx.save_for_backward(*options)
        ctx.weights, ctx.gates = weights, (gates.shape, gates.dtype, gates.device)
        return _weighed(weights, options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        """Each gate has the product of its tensor with the gradient."""
        options = ctx.saved_tensors
        shape, dtype, device = ctx.gates
        gates = torch.zeros(shape, dtype=dtype, device=device)
        for i, option in enumerate(options):
            gates[i] = (wanted.to(dtype) * option.to(dtype)).sum()
        passed = [w * wanted if w else None for w in ctx.weights[: len(options)]]
        return gates, None, *passed


def _mix(gates: Tensor, weights: Sequence[float], options: Sequence[Tensor | None]) -> Tensor:
    """Options weighed by gates; differentiable only where gradients are on.

    An option may be None where its weight is 0 and gradients are off.
    """
    if torch.is_grad_enabled():
        return cast("Tensor", _Mix.apply(gates, weights, *options))  # type: ignore[no-untyped-call]
    return _weighed(weights, options)


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
