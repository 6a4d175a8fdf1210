"""What diffusers' own pipelines do, read by running them with recording parts in place."""

from __future__ import annotations

import inspect
import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.model.failures import pipeline_failures
from search.model.family import Request
from search.model.replaced import replaced
from search.model.scheduler import GridSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.core.timestep_grid import TimestepGrid
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class DenoiserCall:
    """The arguments of the first call of the denoiser, as diffusers' pipeline gives them.

    Attributes:
        arguments: all but latents and timestep.
        sample: the latents `[B, ...]` or, guided, `[2 * B, ...]`.
        timestep: that the denoiser receives, `[]` or `[len(sample)]`.
        conditions: the tensors among `arguments`, by their place there.
        guided: whether there is a conditional and an unconditional half.
        unit: how much of the scheduler's timestep is 1 for the denoiser.
        drawn: shape of the noise that the pipeline drew, `[B, C, H, W]`; None if it was given some.
    """

    arguments: dict[str, Any]
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
                f"the pipeline makes latents {tuple(self.sample.shape)} of noise {self.drawn} by more "
                "than reordering it; such pipelines are not supported"
            )
            raise SearchError(msg)
        return tuple(order.tolist())


class _RecordedError(Exception):
    """Ends the pipeline's run once what was wanted is known."""


def record_call(pipeline: Pipeline, request: Request) -> DenoiserCall:
    """Run diffusers' pipeline up to its first call of the denoiser and keep the arguments.

    What the pipeline draws as noise is numbered instead, element by element.
    """
    family = pipeline.family
    drawn: list[tuple[int, ...]] = []

    def number(shape: tuple[int, ...], *_: Any, device: Any = None, **__: Any) -> Tensor:
        drawn.append(tuple(shape))
        return torch.arange(math.prod(shape), dtype=torch.float32, device=device).reshape(shape)

    with replaced(inspect.getmodule(type(pipeline.pipe)), "randn_tensor", number):
        found = _record_arguments(pipeline, request)
    sample, timestep = found.pop(family.sample), found.pop(family.timestep)
    model_timestep = float(timestep.flatten()[0])
    scheduled = float(pipeline.pipe.scheduler.timesteps[0])
    return DenoiserCall(
        arguments=found,
        sample=sample,
        timestep=timestep,
        conditions=_tensors(found),
        guided=len(sample) == 2 * len(request.prompts) * request.images,
        unit=1.0 if model_timestep == scheduled else scheduled / model_timestep,
        drawn=drawn[0] if drawn else None,
    )


def record_conditions(pipeline: Pipeline, request: Request) -> dict[str, Tensor]:
    """The tensor arguments of the denoiser's first call except latents and timestep; can be traced."""
    found = _record_arguments(pipeline, request)
    del found[pipeline.family.sample], found[pipeline.family.timestep]
    return _tensors(found)


def _record_arguments(pipeline: Pipeline, request: Request) -> dict[str, Any]:
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
    pipeline: Pipeline, grid: TimestepGrid, size: tuple[int, int] | None
) -> GridSettings:
    """What the pipeline asks of its scheduler for `grid` and pictures of `size` (height, width)."""
    _require_grid(pipeline.pipe, grid)
    original = pipeline.pipe.scheduler.set_timesteps
    found: dict[str, Any] = {}

    @wraps(original)
    def record(*args: Any, **kwargs: Any) -> None:
        found.update(inspect.signature(original).bind(*args, **kwargs).arguments)
        raise _RecordedError

    prompts = (pipeline.family.default_prompt,)
    request = Request(prompts, grid.inference_steps, 1.0).sized(size).on(grid)
    with replaced(pipeline.pipe.scheduler, "set_timesteps", record):
        _run(pipeline, request)
    arguments = {name: value for name, value in found.items() if value is not None}
    arguments.pop("device", None)
    unknown = sorted(arguments.keys() - {"num_inference_steps", "timesteps", "sigmas", "mu"})
    if unknown:
        msg = f"the pipeline gives its scheduler {unknown}; such pipelines are not supported"
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


def record_encoding(pipeline: Pipeline, size: tuple[int, int] | None) -> Any:
    """What the pipeline's own `encode_prompt` returns for its default prompt; None if it has none."""
    original = getattr(pipeline.pipe, "encode_prompt", None)
    if original is None:
        return None
    found: list[Any] = []

    @wraps(original)
    def record(*args: Any, **kwargs: Any) -> None:
        found.append(original(*args, **kwargs))
        raise _RecordedError

    with with_parts(pipeline.pipe, encode_prompt=record):
        _run(pipeline, Request((pipeline.family.default_prompt,), 1, 1.0).sized(size))
    return found[0]


def _run(pipeline: Pipeline, request: Request) -> None:
    """Run diffusers' pipeline until something is recorded."""
    try:
        with pipeline_failures(pipeline.pipe), on_vae_device(pipeline.pipe), torch.no_grad():
            pipeline.family.call(pipeline.pipe, request, None)
    except _RecordedError:
        pass


@contextmanager
def on_vae_device(pipe: Any) -> Iterator[None]:
    """While open, the pipeline works on its VAE's device, or the CPU: models may be on the meta device."""
    on = torch.device("cpu") if pipe.vae.device.type == "meta" else pipe.vae.device
    device = property(lambda _: on)
    with replaced(type(pipe), "_execution_device", device):
        yield


@contextmanager
def with_parts(pipe: Any, **parts: Any) -> Iterator[None]:
    """While open, these attributes of the pipeline are others."""
    with ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(_replaced_entry(vars(pipe), name, part))
        yield


@contextmanager
def _replaced_entry(entries: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """While open, the entry `name` is `value`; a pipeline's own `__setattr__` would note it down."""
    had, before = name in entries, entries.get(name)
    entries[name] = value
    try:
        yield
    finally:
        if had:
            entries[name] = before
        else:
            del entries[name]


@contextmanager
def with_gradients(pipe: Any) -> Iterator[None]:
    """While open, the pipeline's call leaves the mode of automatic differentiation alone."""
    call: Callable[..., Any] = inspect.unwrap(type(pipe).__call__)
    with replaced(type(pipe), "__call__", call):
        yield


def path_name(path: tuple[Any, ...]) -> str:
    """The place of a leaf as an identifier: `added_cond_kwargs__time_ids`."""
    return "__".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
