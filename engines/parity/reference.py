"""The PyTorch side of the ladder: diffusers' own pipeline, and the SubNet gated in it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.liveness import Unrolled, unroll
from search.core.quantisation import weight_scheme
from search.core.table import always
from search.core.topology import TargetKind
from search.model.family import Request
from search.model.ip_adapter import attach_ip_adapter
from search.model.lora import attach, fuse
from search.model.opening import open_for
from search.model.reference import (
    Trajectory,
    called_networks,
    forward_replaced,
    gated,
    sample,
)
from search.quantise.rounded import round_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from engines.parity.inputs import RunInputs
    from exporter.bundle import Bundle
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.core.topology import Target
    from search.model.pipeline import Pipeline

    Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """What PyTorch computes in float32 on the CPU.

    Attributes:
        bundle: whose SubNet it is.
        opened: the pipeline, with its weights in float32.
        inputs: what was sampled.
        full: diffusers' own pipeline, every block at every step.
        gated: the SubNet.
        ungated: per probed step of the full run, what the calls of the denoiser gave in diffusers'
            pipeline, and what they give there gated by a SubNet that runs everything.
    """

    bundle: Bundle
    opened: Pipeline
    inputs: RunInputs
    full: Trajectory
    gated: Trajectory
    ungated: dict[int, tuple[Array, Array]]

    @cached_property
    def subnet(self) -> SubNet:
        """That of the bundle, with the rows of the run's guidance scale."""
        return self.bundle.subnet.at(self.inputs.guidance)

    @property
    def table(self) -> SamplerTable:
        """The sampler, one row per step: the pipeline's, or the SubNet's own."""
        return self.opened.sampler_of(self.subnet)

    @cached_property
    def unrolled(self) -> Unrolled:
        """The SubNet's values."""
        return unroll(self.subnet)

    def origin(self, step: int, name: str) -> tuple[int, Target] | None:
        """Where the tensor that the call of `step` knows as `name` was computed, as (step, target)."""
        number = self.unrolled.named(step).get(name)
        if number is None:
            return None
        value = self.unrolled.values[number]
        return value.step, value.target

    def sample(self, step: int) -> NDArray[np.float32]:
        """The denoiser's input at `step`."""
        made: NDArray[np.float32] = self.gated.inputs[step].numpy(force=True)
        return made

    def prediction(self, step: int) -> NDArray[np.float32]:
        """The noise prediction at `step`."""
        made: NDArray[np.float32] = self.gated.predictions[step].numpy(force=True)
        return made

    @property
    def latents(self) -> NDArray[np.float32]:
        """The final ones."""
        made: NDArray[np.float32] = self.gated.latents[-1].numpy(force=True)
        return made

    def computed(self, step: int) -> dict[Target, str]:
        """What the blocks compute at `step`, in that order: target -> name."""
        topology = self.subnet.topology
        return {
            target: topology.name(target)
            for target in sorted(self.unrolled.computed[step], key=lambda each: each.port)
            if target.kind is not TargetKind.PREDICTION
        }


def run_reference(
    bundle: Bundle,
    path: Path,
    inputs: RunInputs,
    *,
    probes: Sequence[int],
) -> Reference:
    """Sample in PyTorch with diffusers' own pipeline, full and gated.

    Its weights are those of the bundle: with LoRAs and IP-Adapter, and rounded where the weights of parts around the
    denoiser are stored in few bits.

    Args:
        bundle: whose SubNet to run.
        path: of the pipeline it was exported from.
        inputs: what to sample.
        probes: the steps at which the gates are compared with no gates.

    Raises:
        SearchError: the pipeline is not the one the bundle was exported from, or a LoRA or IP-Adapter is
            missing.
    """
    subnet = bundle.subnet.at(inputs.guidance)
    opened = open_for(subnet, path, weights=True)
    fuse(opened.pipe, bundle.loras)
    attach(opened.pipe, bundle.live_loras)
    attach_ip_adapter(opened.pipe, path, bundle.ip_adapter)
    for name, precision in bundle.parts.items():
        if (scheme := weight_scheme(precision)) is not None:
            round_part(getattr(opened.pipe, name), scheme)
    request = Request(
        prompts=(inputs.prompt,) * bundle.latent_shape[0],
        steps=subnet.binding.inference_steps,
        guidance=inputs.guidance,
        negative=inputs.negative,
        latents=None if inputs.latents is None else torch.from_numpy(inputs.latents),
    ).sized(opened.size(subnet.binding.noise_shape))
    grid = subnet.binding.grid

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(inputs.seed)

    reference = sample(opened, request, subnet, generator=drawn(), grid=grid)
    calls: dict[int, list[_Seen]] = {}
    with _watched(opened, subnet, probes, calls):
        full = sample(opened, request, generator=drawn(), grid=grid)
    ungated = _gated_in_full(opened, subnet, calls)
    return Reference(bundle, opened, inputs, full, reference, ungated)


@dataclass(frozen=True)
class _Seen:
    """One call of a network.

    Attributes:
        network: that was called.
        args: positional.
        kwargs: by name.
        output: what it returned.
    """

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: torch.Tensor


@contextmanager
def _watched(
    opened: Pipeline, subnet: SubNet, steps: Sequence[int], seen: dict[int, list[_Seen]]
) -> Iterator[None]:
    """While open, keep what goes into the networks and out of them at `steps`.

    A full run may have more steps than the SubNet; what comes after its last one is not looked at.
    """
    step_of = (step for step in range(subnet.steps) for _ in subnet.topology.calls_of(step))
    wanted = frozenset(steps)

    def watching(network: nn.Module) -> Callable[..., Any]:
        forward = network.forward

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            step = next(step_of, None)
            output = forward(*args, **kwargs)
            if step is not None and step in wanted:
                args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
                seen.setdefault(step, []).append(_Seen(network, args, kwargs, _first(output)))
            return output

        return run

    with ExitStack() as stack:
        for network, _ in called_networks(opened.networks, subnet.topology):
            stack.enter_context(forward_replaced(network, watching(network)))
        yield


def _gated_in_full(
    opened: Pipeline, subnet: SubNet, calls: Mapping[int, Sequence[_Seen]]
) -> dict[int, tuple[Array, Array]]:
    """By step, what its calls gave and what they give under a SubNet that runs everything."""
    # Blocks that were removed from the pipeline for good run too: what stands there hands on its input.
    whole = always(subnet, Action.RUN)
    with torch.no_grad(), gated(opened.networks, whole, steps=sorted(calls)):
        return {
            step: (
                _joined(call.output for call in calls[step]),
                _joined(_first(c.network(*c.args, **c.kwargs)) for c in calls[step]),
            )
            for step in sorted(calls)
        }


def _joined(outputs: Iterable[torch.Tensor]) -> Array:
    """What the calls of a step gave, as one array."""
    arrays = [output.numpy(force=True) for output in outputs]
    return arrays[0] if len(arrays) == 1 else np.concatenate([each.ravel() for each in arrays])


def _first(output: Any) -> torch.Tensor:
    """The noise prediction in what a denoiser returns."""
    tensor: torch.Tensor = output[0]
    return tensor


def images_of(trajectory: Trajectory) -> Array:
    """`[B, height, width, 3]` in 0..1."""
    if trajectory.images is None:
        msg = "the PyTorch reference made no picture; check the pipeline with diffusers alone"
        raise SearchError(msg)
    return trajectory.images


def picture_of(trajectory: Trajectory) -> NDArray[np.uint8]:
    """The first picture, `[height, width, 3]`."""
    pixels: NDArray[np.uint8] = np.rint(images_of(trajectory)[0] * 255).astype(np.uint8)
    return pixels
