"""What diffusers' own pipelines do, read by running them with recording parts in place."""

from __future__ import annotations

import inspect
import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.model.encoding import Encoding, conditions_of, path_name
from search.model.entry import numbered_noise
from search.model.failures import pipeline_failures
from search.model.family import OpenedPipeline, Request
from search.model.parts_in_place import on_vae_device
from search.model.replaced import replaced
from search.model.scheduler import GridSettings

if TYPE_CHECKING:
    from search.core.timestep_grid import TimestepGrid

TIMESTEPS = ("timestep", "timesteps", "t", "time")
"""Names of the denoiser's argument that takes the timestep."""


@dataclass(frozen=True)
class DenoiserCall:
    """The arguments of the denoiser's call at a step that calls it once, as diffusers' pipeline gives them.

    Attributes:
        arguments: all but latents and timestep.
        names: of the arguments that take latents and timestep.
        sample: the latents `[B, ...]` or, guided, `[2 * B, ...]`.
        timestep: that the denoiser receives, `[]` or `[len(sample)]`.
        conditions: the tensors among `arguments`, by their place there.
        guided: whether there is a conditional and an unconditional half.
        unit: how much of the scheduler's timestep is 1 for the denoiser.
        drawn: shape of the noise that the pipeline drew, `[B, C, H, W]`; None if it was given some.
    """

    arguments: dict[str, Any]
    names: tuple[str, str]
    sample: Tensor
    timestep: Tensor
    conditions: dict[str, Tensor]
    guided: bool
    unit: float
    drawn: tuple[int, ...] | None

    def model_timestep(self, timestep: Tensor) -> Tensor:
        """The timestep that the denoiser receives for one of the scheduler's `[]`, for the whole batch."""
        timestep = timestep if self.unit == 1 else timestep / self.unit
        return timestep.expand(self.timestep.shape)

    def layout(self) -> tuple[int, ...] | None:
        """Per element of the latents, which element of the drawn noise it is; None: its own.

        Raises:
            SearchError: the latents are not the noise in another order.
        """
        if self.drawn is None or self.sample.shape[1:] == self.drawn[1:]:
            return None
        order = self.sample[: len(self.sample) // (2 if self.guided else 1)].flatten().long()
        if not torch.equal(order.sort().values, torch.arange(math.prod(self.drawn))):
            msg = (
                f"the pipeline does more than reorder its noise {self.drawn} to make latents "
                f"{tuple(self.sample.shape)}; such pipelines are not supported"
            )
            raise SearchError(msg)
        return tuple(order.tolist())


class _RecordedError(Exception):
    """Ends the pipeline's run once what was wanted is known."""


def record_call(pipeline: OpenedPipeline, request: Request) -> DenoiserCall:
    """Run diffusers' pipeline up to its first call of the denoiser and keep the arguments.

    What the pipeline draws as noise is numbered instead, element by element.
    """
    parameters = list(inspect.signature(type(pipeline.denoiser).forward).parameters)[1:]
    names = parameters[0], next(name for name in parameters if name in TIMESTEPS)
    with numbered_noise(pipeline.pipe) as drawn:
        found = _record_arguments(pipeline, request)
    sample, timestep = (found.pop(name) for name in names)
    model_timestep = float(timestep.flatten()[0])
    scheduled = float(pipeline.pipe.scheduler.timesteps[0])
    return DenoiserCall(
        arguments=found,
        names=names,
        sample=sample,
        timestep=timestep,
        conditions=_tensors(found),
        guided=len(sample) == 2 * len(request.prompts) * request.images,
        unit=1.0 if model_timestep == scheduled else scheduled / model_timestep,
        drawn=drawn[0] if drawn else None,
    )


def record_conditions(
    pipeline: OpenedPipeline, request: Request, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The conditions of a request: what the pipeline's encoders return. Can be traced."""
    encoding = record_encoding(pipeline, request, generator)
    return conditions_of(encoding, pipeline.family.labels(pipeline.pipe, request))


def record_encoding(
    pipeline: OpenedPipeline, request: Request, generator: torch.Generator | None = None
) -> Encoding:
    """Run diffusers' pipeline up to its first call of the denoiser."""
    encoding = Encoding(pipeline.pipe)

    def stop(*_: Any, **__: Any) -> None:
        raise _RecordedError

    with ExitStack() as stack:
        stack.enter_context(encoding.noted())
        for network in pipeline.networks.values():
            stack.enter_context(replaced(network, "forward", stop))
        _run(pipeline, request, generator)
    return encoding


def _record_arguments(pipeline: OpenedPipeline, request: Request) -> dict[str, Any]:
    """The arguments of the denoiser's first call, with a tuple as the return type."""
    signature = inspect.signature(pipeline.denoiser.forward)
    found: dict[str, Any] = {}

    def record(*args: Any, **kwargs: Any) -> None:
        found.update(signature.bind(*args, **kwargs).arguments)
        raise _RecordedError

    with replaced(pipeline.denoiser, "forward", record):
        _run(pipeline, request)
    found.pop("kwargs", None)
    return found | {"return_dict": False}


def _tensors(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the arguments, by their place there."""
    return {
        path_name(path): leaf
        for path, leaf in pytree.tree_leaves_with_path(arguments)
        if isinstance(leaf, Tensor)
    }


def record_grid_settings(
    pipeline: OpenedPipeline, grid: TimestepGrid, size: tuple[int, ...] | None
) -> GridSettings:
    """What the pipeline asks of its scheduler for `grid` and pictures of `size` (height, width)."""
    _require_grid(pipeline.pipe, grid)
    original = pipeline.pipe.scheduler.set_timesteps
    found: dict[str, Any] = {}

    @wraps(original)
    def record(*args: Any, **kwargs: Any) -> None:
        found.update(inspect.signature(original).bind(*args, **kwargs).arguments)
        raise _RecordedError

    prompts = (pipeline.default_prompt,)
    request = Request(prompts, grid.inference_steps, 1.0).sized(size).on(grid)
    with replaced(pipeline.pipe.scheduler, "set_timesteps", record):
        _run(pipeline, request)
    arguments = {name: value for name, value in found.items() if value is not None}
    arguments.pop("device", None)
    unknown = sorted(arguments.keys() - {"num_inference_steps", "timesteps", "sigmas", "mu"})
    if unknown:
        msg = (
            f"{type(pipeline.pipe).__name__} sets up its scheduler with "
            f"{' and '.join(unknown)}, but stepcarve knows timestep grids by their number, "
            "timesteps, sigmas or mu only; such pipelines are not supported"
        )
        raise SearchError(msg)
    mu = arguments.get("mu")
    return GridSettings(
        grid=grid,
        timesteps=tuple(arguments["timesteps"]) if "timesteps" in arguments else None,
        sigmas=tuple(map(float, arguments["sigmas"])) if "sigmas" in arguments else None,
        mu=None if mu is None else float(mu),
        eta=_eta(pipeline.pipe),
    )


def _require_grid(pipe: Any, grid: TimestepGrid) -> None:
    """Refuse a custom grid that the pipeline or its scheduler does not take."""
    for name in ("timesteps", "sigmas"):
        for part, takes in (
            (pipe, type(pipe).__call__),
            (pipe.scheduler, pipe.scheduler.set_timesteps),
        ):
            if getattr(grid, f"custom_{name}") and name not in inspect.signature(takes).parameters:
                msg = (
                    f"{type(part).__name__} takes no custom {name}; give a number of steps, or choose "
                    "a pipeline and a --scheduler that take them, as EulerDiscreteScheduler does"
                )
                raise SearchError(msg)


def _eta(pipe: Any) -> float | None:
    """The `eta` that the pipeline passes to each step of its scheduler, or None."""
    given = inspect.signature(type(pipe).__call__).parameters.get("eta")
    taken = "eta" in inspect.signature(pipe.scheduler.step).parameters
    return float(given.default) if given is not None and taken else None


def _run(
    pipeline: OpenedPipeline, request: Request, generator: torch.Generator | None = None
) -> None:
    """Run diffusers' pipeline until something is recorded."""
    try:
        with pipeline_failures(pipeline.pipe), on_vae_device(pipeline.pipe), torch.no_grad():
            pipeline.family.call(pipeline.pipe, request, generator)
    except _RecordedError:
        pass
