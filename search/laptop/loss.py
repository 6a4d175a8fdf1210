"""What the denoiser predicts without some of its layers, and the losses made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.core.actions import Action
from search.core.subnet import SubNet
from search.laptop.noising import Noising
from search.laptop.settings import SNR_CAP, SNR_FLOOR
from search.model.family import Request
from search.model.recording import DenoiserCall, record_call
from search.model.reference import gated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from search.core.subnet import SubNet
    from search.laptop.layers import Layers
    from search.laptop.tuples import Tuples
    from search.model.pipeline import Pipeline

ELEMENTS = 2**14
"""Of the latents of one call of the denoiser, if not one sample alone has more."""


@dataclass(frozen=True)
class Predicted:
    """What one call of the denoiser predicts.

    Attributes:
        part: of the inputs.
        whole: with all layers, `[halves, B, ...]`.
        without: per set of layers, without them, `[sets, halves, B, ...]`.
    """

    part: slice
    whole: Tensor
    without: Tensor


class Predictions:
    """Predictions for K inputs, both halves of guidance for themselves, without sets of layers.

    What stands before the first removed layer is computed once per input: sets of layers are taken by
    their first one, last first, and all before it is reused from the call that runs everything.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        layers: Layers,
        latents: Tensor,
        timesteps: Tensor,
        prompts: Sequence[str],
    ) -> None:
        """The pipeline has its weights loaded; latents `[K, ...]`, timesteps `[K]`."""
        self.pipeline, self.layers = pipeline, layers
        self.latents, self.timesteps, self.prompts = latents, timesteps, tuple(prompts)
        size = max(1, ELEMENTS // latents[0].numel())
        parts = [slice(start, start + size) for start in range(0, len(latents), size)]
        self._calls = [(part, *self._call(part)) for part in parts]

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> Iterator[Predicted]:
        """Call by call, the predictions without each of these sets of layers."""
        blocks = self.layers.blocks
        firsts = [min((blocks[layer] for layer in one), default=-1) for one in removed]
        order = sorted(range(len(removed)), key=lambda i: -firsts[i])
        subnet = self._rows([removed[i] for i in order])
        place = torch.tensor(order).argsort()
        with torch.no_grad(), gated(self.pipeline.denoiser, subnet):
            for part, arguments, halves in self._calls:
                rows = [self._predict(arguments).cpu() for _ in range(len(removed) + 1)]
                made = _halved(torch.stack(rows), 1, halves)
                yield Predicted(part, made[0], made[1:][place])

    def whole(self) -> Iterator[tuple[slice, Tensor]]:
        """Call by call, the part of the inputs and `[halves, B, ...]` with all layers; differentiable."""
        for part, arguments, halves in self._calls:
            yield part, _halved(self._predict(arguments), 0, halves)

    def _predict(self, arguments: dict[str, object]) -> Tensor:
        """`[halves * B, ...]`."""
        raw = self.pipeline.denoiser(**arguments)[0]
        prediction: Tensor = raw[:, : self.latents.shape[1]]  # learned variances follow
        return prediction

    def _rows(self, removed: Sequence[AbstractSet[int]]) -> SubNet:
        """Everything, then each of these sets, as the steps of one SubNet."""
        full, count = self.layers.full, len(self.layers.full.topology.blocks)
        rows = [(Action.RUN,) * count]
        for one in removed:
            skipped = {self.layers.blocks[layer] for layer in one}
            first = min(skipped, default=0)
            rows.append(
                tuple(
                    Action.SKIP if b in skipped else Action.REUSE if b < first else Action.RUN
                    for b in range(count)
                )
            )
        binding = replace(full.binding, timesteps=full.binding.timesteps[:1] * len(rows))
        return replace(full, binding=binding, actions=tuple(rows), fitted=None)

    def _call(self, part: slice) -> tuple[dict[str, object], int]:
        """The denoiser's arguments for a part of the inputs, and how many halves there are."""
        full = self.layers.full
        device = self.pipeline.denoiser.device
        sample = self.latents[part].to(device)
        request = Request(self.prompts[part], steps=2, guidance=full.guidance)
        size = self.pipeline.size(full.binding.noise_shape)
        call: DenoiserCall = record_call(self.pipeline, request.sized(size))
        halves = 2 if call.guided else 1
        model_timestep = self.timesteps[part].to(device, torch.float32) / call.unit
        arguments = {
            **call.arguments,
            call.names[0]: torch.cat([sample] * halves),
            call.names[1]: torch.cat([model_timestep] * halves),
        }
        return arguments, halves


def _halved(predictions: Tensor, dim: int, halves: int) -> Tensor:
    """`[..., halves * B, ...]` -> `[..., halves, B, ...]`."""
    shape = predictions.shape
    return predictions.reshape(*shape[:dim], halves, -1, *shape[dim + 1 :])


class OutputLoss:
    """Mean squared change of the predictions on the tuples (LAPTOP-Diff's criterion)."""

    def __init__(self, pipeline: Pipeline, layers: Layers, tuples: Tuples) -> None:
        """The pipeline has its weights loaded."""
        self._predictions = Predictions(
            pipeline, layers, tuples.latents, tuples.timesteps, tuples.prompts
        )

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> Tensor:
        """Per set of layers and tuple, the loss of removing them, `[len(removed), K]`."""
        each = [
            (predicted.without - predicted.whole).square().flatten(3).mean(dim=(1, 3))
            for predicted in self._predictions(removed)
        ]
        return torch.cat(each, dim=1)


class PictureLoss(OutputLoss):
    """The same as errors of the clean latents that the predictions point to, weighed as distillation does."""

    def __init__(self, pipeline: Pipeline, layers: Layers, tuples: Tuples) -> None:
        """The pipeline has its weights loaded."""
        super().__init__(pipeline, layers, tuples)
        noising = Noising.of(pipeline.pipe.scheduler)
        self._weights = noising.weights(noising.nearest(tuples.timesteps), SNR_FLOOR, SNR_CAP)

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> Tensor:
        """See `OutputLoss`."""
        return super().__call__(removed) * self._weights
