"""All steps of a sampler chained, and their backward pass with one step in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from search.supernet.gates import Carry, GatedStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class StepChain:
    """The calls of one run, one after the other.

    Attributes:
        gated_call: step number, sample `[B, ...]` and gates -> prediction and what is handed on.
        noise: to start from, `[B, ...]`.
        rows: of the sampler table: per step, coefficients of the noise and of each prediction.
        weights: the values of the gates, `[T][N][A]`.
        every: how far apart the steps are at which caches are kept for the backward pass.
    """

    gated_call: Callable[[int, Tensor, GatedStep], tuple[Tensor, Carry]]
    noise: Tensor
    rows: list[list[float]]
    weights: list[list[list[float]]]
    every: int

    def sample(self, number: int, predictions: Sequence[Tensor]) -> Tensor:
        """The denoiser's input at a step, `[B, ...]`, from the predictions before it."""
        row = self.rows[number]
        latents = row[0] * self.noise
        for coefficient, prediction in zip(row[1:], predictions[:number], strict=False):
            if coefficient:
                latents = latents + coefficient * prediction
        return latents

    def call(
        self, number: int, sample: Tensor, gates: Tensor, carry: Carry
    ) -> tuple[Tensor, Carry]:
        """The prediction of a step and its carry; `gates` are those of the step, `[N, A]`."""
        now = GatedStep(gates.unbind(), self.weights[number], carry)
        return self.gated_call(number, sample, now)

    def predictions(self, gates: Tensor, keep: dict[int, Carry] | None = None) -> list[Tensor]:
        """The predictions of all steps; `keep` receives the carry into every `every`-th step."""
        found: list[Tensor] = []
        carry = Carry()
        for number in range(len(self.rows)):
            if keep is not None and number % self.every == 0:
                keep[number] = carry
            sample = self.sample(number, found)
            prediction, carry = self.call(number, sample, gates[number], carry)
            found.append(prediction)
        return found


class Checkpointed(torch.autograd.Function):
    """All predictions of a chain; the backward pass computes each step again."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, chain: StepChain) -> Tensor:
        """Gates `[T, N, A]` -> predictions `[T, B, ...]`."""
        ctx.chain, ctx.came = chain, {}
        found = chain.predictions(gates, ctx.came)
        predictions = torch.stack(found)
        ctx.save_for_backward(gates, predictions)
        return predictions

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, None]:
        """The gradient of the predictions -> that of the gates."""
        gates, stacked = ctx.saved_tensors
        chain: StepChain = ctx.chain
        predictions = stacked.unbind()
        back = _BackwardPass(chain, gates, predictions, wanted)
        every, steps = chain.every, len(chain.rows)
        for start in reversed(range(0, steps, every)):
            came = [ctx.came.pop(start)]
            for number in range(start, min(start + every, steps) - 1):
                sample = chain.sample(number, predictions)
                came.append(chain.call(number, sample, gates[number], came[-1])[1])
            for number in reversed(range(start, start + len(came))):
                back.through(number, came.pop())
        return back.gates, None


class _BackwardPass:
    """Gradients, from the last step to the first."""

    def __init__(
        self, chain: StepChain, gates: Tensor, predictions: Sequence[Tensor], wanted: Tensor
    ) -> None:
        self.chain, self.values, self.found = chain, gates, predictions
        self.gates = torch.zeros_like(gates)
        self.predictions = list(wanted.clone().unbind())
        self.carried: list[Tensor | None] = []

    def through(self, number: int, came: Carry) -> None:
        """Recompute a step and backpropagate from its outputs to its inputs."""
        if number == 0:
            return
        chain = self.chain
        sample = chain.sample(number, self.found).requires_grad_()
        gates = self.values[number].detach().requires_grad_()
        inputs = [tensor.detach().requires_grad_() for tensor in came.tensors]
        with torch.enable_grad():
            prediction, gone = chain.call(
                number, sample, gates, Carry.of_layout(came.layout, inputs)
            )
        carried = self.carried or [None] * len(gone.tensors)
        results = zip(
            [prediction, *gone.tensors], [self.predictions[number], *carried], strict=True
        )
        felt = [(r, wanted) for r, wanted in results if wanted is not None and r.requires_grad]
        found = torch.autograd.grad(
            [result for result, _ in felt],
            [sample, gates, *inputs],
            [wanted for _, wanted in felt],
            allow_unused=True,
        )
        of_sample, of_gates = found[:2]
        self.carried = list(found[2:])
        if of_gates is not None:
            self.gates[number] = of_gates
        if of_sample is not None:
            for earlier, coefficient in enumerate(chain.rows[number][1 : 1 + number]):
                self.predictions[earlier] += coefficient * of_sample
