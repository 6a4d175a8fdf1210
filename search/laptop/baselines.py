"""Other criteria, to compare with the change of the predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.core.timestep_grid import TimestepGrid
from search.fitting.trajectories import CHUNK
from search.laptop.loss import Predictions
from search.laptop.noising import Noising
from search.model.predictor import Predictor
from search.model.reference import gated
from search.model.scheduler import combine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from search.laptop.layers import Layers
    from search.laptop.tuples import Tuples
    from search.model.pipeline import Pipeline

STEPS = 10
"""Of the sampler that LD-Pruner's statistics are taken with."""
PICTURES = 8
"""At most so many final latents are in these statistics."""
NOISE_SEED = 1


class TaskLoss:
    """How far the loss rises that the denoiser was trained on.

    The clean latents are those that the full sampler ends with, so the denoiser's own pictures.
    """

    def __init__(self, pipeline: Pipeline, layers: Layers, tuples: Tuples) -> None:
        """The pipeline has its weights loaded."""
        noised, self.targets = _noised(pipeline, tuples)
        self.predictions = Predictions(pipeline, layers, noised, tuples.timesteps, tuples.prompts)

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> Tensor:
        """Per set of layers and tuple, the rise of the loss without them, `[len(removed), K]`."""
        each = []
        for predicted in self.predictions(removed):
            target = self.targets[predicted.part]
            whole = (predicted.whole - target).square().flatten(2).mean(dim=(0, 2))
            each.append((predicted.without - target).square().flatten(3).mean(dim=(1, 3)) - whole)
        return torch.cat(each, dim=1)


class LatentStatistics:
    """LD-Pruner (Castells et al. 2024): change of mean and of spread of the final latents, added up."""

    def __init__(self, pipeline: Pipeline, layers: Layers, tuples: Tuples) -> None:
        """The pipeline has its weights loaded."""
        self._pipeline, self._layers = pipeline, layers
        full = layers.full
        prompts = list(dict.fromkeys(tuples.prompts))[:PICTURES]
        self._predictor = Predictor(
            pipeline,
            prompts,
            guidance=full.guidance,
            noise_shape=full.binding.noise_shape,
            chunk=CHUNK,
        )
        grid = TimestepGrid(min(STEPS, full.binding.inference_steps))
        size = pipeline.size(full.binding.noise_shape)
        self._table = pipeline.sampler(grid, size)
        self._timesteps = pipeline.timesteps(grid, size)
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(len(prompts), *self._predictor.latent_shape, generator=generator)
        self._noise = noise.to(pipeline.denoiser.device)
        self._whole = self._statistics(frozenset())

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> Tensor:
        """Per set of layers, how far both move without them, `[len(removed), 1]`."""
        return torch.stack([self._moved(one) for one in removed])[:, None]

    def _moved(self, one: AbstractSet[int]) -> Tensor:
        pairs = zip(self._statistics(one), self._whole, strict=True)
        return torch.stack([(there - here).norm() for there, here in pairs]).sum()

    def _statistics(self, one: AbstractSet[int]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the pictures, `[...]` each."""
        values = [self._noise]
        with torch.no_grad(), gated(self._pipeline.denoiser, self._layers.once_without(one)):
            for row, timestep in zip(self._table.inputs, self._timesteps, strict=True):
                at = torch.tensor(timestep, device=self._noise.device)
                values.append(self._predictor(combine(row, values), at))
        final = combine(self._table.final, values).cpu()
        return final.mean(dim=0), final.std(dim=0, correction=0)


def magnitudes(pipeline: Pipeline, layers: Layers) -> list[float]:
    """Per layer, the L2 norm of the weights that go with it."""
    return [
        float(torch.stack([w.detach().float().square().sum() for w in weights]).sum().sqrt())
        for weights in _weights(pipeline, layers)
    ]


def taylor(pipeline: Pipeline, layers: Layers, tuples: Tuples) -> list[float]:
    """Per layer, the sum over its weights of |weight x gradient of the task loss|."""
    task = TaskLoss(pipeline, layers, tuples)
    with torch.enable_grad():
        denoiser = pipeline.denoiser.requires_grad_(True)
        try:
            for part, predicted in task.predictions.whole():
                target = task.targets[part].to(predicted.device)
                error = (predicted - target).square().flatten(2).mean(dim=(0, 2)).sum()
                torch.autograd.backward(error / len(task.targets))
            return [
                sum(float((w.detach() * w.grad).abs().sum()) for w in weights if w.grad is not None)
                for weights in _weights(pipeline, layers)
            ]
        finally:
            denoiser.zero_grad(set_to_none=True)
            denoiser.requires_grad_(False)


def _weights(pipeline: Pipeline, layers: Layers) -> Iterator[list[Tensor]]:
    """Per layer, the weights that go with it: all but a shortcut's."""
    for name in layers.names:
        module = pipeline.denoiser.get_submodule(name)
        yield [w for key, w in module.named_parameters() if not key.startswith("conv_shortcut.")]


def _noised(pipeline: Pipeline, tuples: Tuples) -> tuple[Tensor, Tensor]:
    """Final latents with noise at the tuples' timesteps, and what the denoiser should predict of them."""
    noise = torch.randn(tuples.final.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    noising = Noising.of(pipeline.pipe.scheduler)
    return noising.mix(noising.nearest(tuples.timesteps), tuples.final, noise)
