"""The layers of a pipeline's networks that can be quantised, and hooks that watch them in a run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from search.model.pipeline import Pipeline
    from search.model.predictor import Predictor

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHT = ".weight"


def layers_of(pipeline: Pipeline) -> dict[str, nn.Module]:
    """Name of the weights -> the layer; names outside of the denoiser begin with the network's name."""
    return {
        f"{'' if network == pipeline.family.component else f'{network}.'}{name}{WEIGHT}": module
        for network, whole in pipeline.networks.items()
        for name, module in whole.named_modules()
        if isinstance(module, KINDS)
    }


@contextmanager
def watched(
    layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """While open, `see` receives the name, input and output of each layer that is called."""

    def hook(name: str) -> Callable[..., None]:
        def seen(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            see(name, args[0].detach(), output.detach())

        return seen

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_in_loop(
    predictor: Predictor, layers: Mapping[str, nn.Module], timestep: float
) -> tuple[str, ...]:
    """The layers whose input changes with the latents; the others are computed once per prompt.

    Args:
        predictor: calls the denoiser that has the layers.
        layers: the candidates, by the names of their weights.
        timestep: one that the sampler visits.
    """
    generator, device = torch.Generator().manual_seed(0), predictor.pipeline.pipe.device
    shape = (len(predictor.prompts), *predictor.latent_shape)
    runs: list[dict[str, list[Tensor]]] = []
    for _ in range(2):
        inputs: dict[str, list[Tensor]] = {}
        noise = torch.randn(shape, generator=generator).to(device)

        def see(name: str, taken: Tensor, _made: Tensor, into: Any = inputs) -> None:
            into.setdefault(name, []).append(_summary(taken))

        with torch.no_grad(), watched(layers, see):
            predictor(noise, torch.tensor(timestep, device=device))
        runs.append(inputs)
    first, second = runs
    return tuple(
        name
        for name in layers
        if any(
            not torch.equal(one, other)
            for one, other in zip(first.get(name, ()), second.get(name, ()), strict=True)
        )
    )


def _summary(tensor: Tensor) -> Tensor:
    """A fingerprint of two numbers: the sum of the values, and the sum of their squares."""
    wide = tensor.double()
    return torch.stack([wide.sum(), wide.square().sum()])
