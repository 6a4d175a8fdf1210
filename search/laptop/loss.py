"""The output loss: how far the denoiser's predictions move when layers are removed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.model.family import Request
from search.model.recording import DenoiserCall, record_call
from search.model.reference import gated
from search.subnet import Action, SubNet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from search.laptop.layers import Layers
    from search.laptop.tuples import Tuples
    from search.model.pipeline import Pipeline

ELEMENTS = 2**14
"""Of the latents of one call of the denoiser, if not one sample alone has more."""


class OutputLoss:
    """Mean squared change of the predictions on K tuples, both halves of guidance for themselves.

    What stands before the first removed layer is computed once per tuple: sets of layers are taken by
    their first one, last first, and all before it is reused from the call that runs everything.
    """

    def __init__(self, pipeline: Pipeline, layers: Layers, tuples: Tuples) -> None:
        """The pipeline has its weights loaded."""
        self.pipeline, self.layers, self.tuples = pipeline, layers, tuples
        size = max(1, ELEMENTS // tuples.latents[0].numel())
        self._calls = [
            self._call(slice(start, start + size)) for start in range(0, len(tuples), size)
        ]

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> Tensor:
        """Per set of layers and tuple, the loss of removing them, `[len(removed), K]`."""
        return torch.cat([_squared(moved) for moved in self.changes(removed)], dim=1)

    def changes(self, removed: Sequence[AbstractSet[int]]) -> Iterator[Tensor]:
        """Per call and set of layers, how the predictions move, `[len(removed), halves, B, ...]`."""
        firsts = [min((self.layers.blocks[layer] for layer in one), default=-1) for one in removed]
        order = sorted(range(len(removed)), key=lambda i: -firsts[i])
        subnet = self._rows([removed[i] for i in order])
        place = torch.tensor(order).argsort()
        with torch.no_grad(), gated(self.pipeline.denoiser, subnet):
            for arguments, channels, halves in self._calls:
                whole, *found = (
                    self._predict(arguments, channels).clone() for _ in range(len(removed) + 1)
                )
                moved = torch.stack(found)[place.to(whole.device)] - whole
                yield moved.unflatten(1, (halves, -1)).cpu()

    def _predict(self, arguments: dict[str, object], channels: int) -> Tensor:
        raw = self.pipeline.denoiser(**arguments)[0]
        return self.pipeline.family.predict(raw, channels, None)

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

    def _call(self, part: slice) -> tuple[dict[str, object], int, int]:
        """The denoiser's arguments for some tuples, the channels of their latents, and the halves."""
        family, full = self.pipeline.family, self.layers.full
        device = self.pipeline.denoiser.device
        sample = self.tuples.latents[part].to(device)
        request = Request(self.tuples.prompts[part], steps=2, guidance=full.guidance)
        size = self.pipeline.size(full.binding.noise_shape)
        call: DenoiserCall = record_call(self.pipeline, request.sized(size))
        halves = 2 if call.guided else 1
        told = self.tuples.timesteps[part].to(device, torch.float32) / call.unit
        arguments = {
            **call.arguments,
            family.sample: torch.cat([sample] * halves),
            family.timestep: torch.cat([told] * halves),
        }
        return arguments, sample.shape[1], halves


def _squared(moved: Tensor) -> Tensor:
    """Changes `[sets, halves, B, ...]` -> their mean square, `[sets, B]`."""
    return moved.square().flatten(3).mean(dim=(1, 3))
