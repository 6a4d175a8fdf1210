"""Any diffusers scheduler as a sampler table, read off by probing it.

Common samplers are affine maps of the initial noise, the noises they draw and the noise predictions so
far. They work element by element, so stepping the real scheduler once on vectors whose elements are the
basis (the noises, the first prediction, the second, ...) yields all coefficients in one pass.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from search.core.errors import SearchError
from search.core.sampler import SamplerTable
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from search.core.timestep_grid import TimestepGrid

# Relative difference of a probed table to the scheduler's own float32 arithmetic on random vectors.
_AFFINE_TOLERANCE = 1e-4
_NONLINEAR = ("clip_sample", "clip_denoised", "thresholding")
"""Settings with which a scheduler does more than to add up."""


_REMEMBERED = ("old_pred_original_sample", "timestep_back")
"""What a step can be given of the one before: its second result, and its timestep."""


@dataclass(frozen=True)
class GridSettings:
    """What a pipeline asks of its scheduler.

    Attributes:
        grid: timesteps or their number, as given to the pipeline.
        timesteps: a custom grid; None leaves it to the scheduler.
        sigmas: noise levels before shifting; None likewise.
        mu: the shift for the picture's size, for schedulers that take one.
        eta: scale of the noise that each step adds, for schedulers with that argument.
    """

    grid: TimestepGrid
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    mu: float | None = None
    eta: float | None = None

    def apply(self, scheduler: Any) -> None:
        """Set the scheduler's timesteps, and where it begins."""
        sigmas = None if self.sigmas is None else np.array(self.sigmas)
        settings = {"timesteps": self.timesteps, "sigmas": sigmas, "mu": self.mu}
        given: dict[str, Any] = {k: value for k, value in settings.items() if value is not None}
        count = inspect.signature(scheduler.set_timesteps).parameters.get("num_inference_steps")
        is_needed = count is not None and count.default is inspect.Parameter.empty
        if is_needed or (self.timesteps is None and self.sigmas is None):
            given["num_inference_steps"] = self.grid.inference_steps
        with _blaming_scheduler(scheduler, self.grid):
            scheduler.set_timesteps(**given)
        _begin(scheduler, self.grid)

    def part(self, scheduler: Any) -> Tensor:
        """The timesteps of the grid, once the scheduler's are set."""
        timesteps: Tensor = scheduler.timesteps
        return timesteps[self.grid.part(len(timesteps))]


def read_sampler(scheduler: Any, settings: GridSettings) -> SamplerTable:
    """The table of a diffusers scheduler for the timesteps of `settings`.

    Raises:
        SearchError: the scheduler is not affine with these settings.
    """
    scheduler = unused(scheduler)
    settings.apply(scheduler)
    with _blaming_scheduler(scheduler, settings.grid):
        given, count = settings.grid.takes_latents, len(settings.part(scheduler))
        known = _count_known(scheduler, settings, count)
        basis = torch.eye(known + count)
        inputs, final = _walk(scheduler, settings, basis[:known], basis[known:])
        _require_finite(scheduler, [*inputs, final])
        table = SamplerTable(
            inputs=np.stack([x.double().numpy() for x in inputs]),
            final=final.double().numpy(),
            noises=known - given,
            given=given,
        )
        _check_affine(scheduler, settings, table)
    return _without_unused_noises(table)


def unused(scheduler: Any) -> Any:
    """A copy of a scheduler as it is, before its first step."""
    copied = copy.deepcopy(scheduler)
    if hasattr(copied, "_begin_index"):
        copied._begin_index = None
    return copied


@contextmanager
def _blaming_scheduler(scheduler: Any, grid: TimestepGrid) -> Iterator[None]:
    """What a scheduler raises while this is open becomes a `SearchError` that names it."""
    name = type(scheduler).__name__
    try:
        yield
    except SearchError:
        raise
    except Exception as error:  # each scheduler raises whatever its code runs into
        if isinstance(error, ValueError):
            message = " ".join(str(error).split()).rstrip(".")
            msg = f"{name} refuses {_named(grid)}: {message}; choose others, or another --scheduler"
        else:
            msg = (
                f"{name} does not run with {_named(grid)} if a step gets only a prediction, one "
                "timestep and latents, which is all that a sampler table has; choose others, or "
                "another --scheduler"
            )
        raise SearchError(msg) from error


def _require_finite(scheduler: Any, rows: Sequence[Tensor]) -> None:
    """Refuse a scheduler that divides by zero on its way."""
    bad = [number for number, row in enumerate(rows) if not bool(row.isfinite().all())]
    if bad:
        own = type(scheduler)().config
        differing = {
            key: value
            for key, value in scheduler.config.items()
            if not key.startswith("_") and key in own and own[key] != value
        }
        where = "its last step" if bad[0] == len(rows) - 1 else f"step {bad[0] - 1}"
        msg = (
            f"the scheduler {type(scheduler).__name__} makes values that are not finite at {where}, with "
            f"diffusers too: with its settings {differing} it divides by zero there; change them with "
            "--scheduler-option, or choose another --scheduler"
        )
        raise SearchError(msg)


@contextmanager
def noise_drawn_by(scheduler: Any, draw: Callable[[tuple[int, ...]], Tensor]) -> Iterator[None]:
    """While open, what a diffusers scheduler draws is `draw(shape)`, whatever it is given for that."""

    def randn_tensor(
        shape: tuple[int, ...], *_: Any, device: Any = None, dtype: Any = None, **__: Any
    ) -> Tensor:
        return draw(tuple(shape)).to(device=device, dtype=dtype)

    module = inspect.getmodule(type(scheduler))
    if not hasattr(module, "randn_tensor"):
        yield
        return
    with replaced(module, "randn_tensor", randn_tensor):
        yield


def add_noise(scheduler: Any, settings: GridSettings, clean: Tensor, noise: Tensor) -> Tensor:
    """Clean latents as the scheduler wants them at the first step of the grid.

    Args:
        scheduler: with the timesteps of `settings`.
        settings: says where to begin.
        clean: latents `[B, ...]`.
        noise: of unit variance and the same shape.
    """
    timestep = settings.part(scheduler)[:1]
    if hasattr(scheduler, "scale_noise"):
        noised: Tensor = scheduler.scale_noise(clean, timestep, noise)
    else:
        noised = scheduler.add_noise(clean, noise, timestep)
    return noised


class GridScheduler:
    """A diffusers scheduler of which a pipeline sees the steps of one grid only."""

    def __init__(self, whole: Any, grid: TimestepGrid) -> None:
        self._whole, self._grid = whole, grid

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    @property
    def timesteps(self) -> Any:
        """Those of the grid."""
        timesteps = self._whole.timesteps
        return timesteps[self._grid.part(len(timesteps))]

    @property
    def init_noise_sigma(self) -> Any:
        """What the pipeline multiplies its latents by; given ones are left as they are."""
        return 1.0 if self._grid.takes_latents else self._whole.init_noise_sigma

    @property
    def set_timesteps(self) -> Callable[..., None]:
        """The scheduler's own, whose arguments pipelines look at."""
        original = self._whole.set_timesteps

        @wraps(original)
        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            _begin(self._whole, self._grid)

        return set_timesteps

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Pipelines from text to image begin at the first step that they see."""
        del begin_index
        _begin(self._whole, self._grid)


def combine(row: Sequence[float] | np.ndarray | Tensor, values: Sequence[Tensor]) -> Tensor:
    """The linear combination of `values`; coefficients beyond them are ignored."""
    total = torch.zeros_like(values[0])
    for coefficient, value in zip(row, values, strict=False):
        if isinstance(coefficient, Tensor):
            total = total + coefficient * value
        elif coefficient:
            total = total + float(coefficient) * value
    return total


def _begin(scheduler: Any, grid: TimestepGrid) -> None:
    """Let the scheduler begin where the grid does."""
    if grid.takes_latents and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(grid.first_step)


def _named(grid: TimestepGrid) -> str:
    if grid.custom_timesteps:
        return f"the timesteps {list(grid.custom_timesteps)}"
    if grid.custom_sigmas:
        return f"the sigmas {list(grid.custom_sigmas)}"
    return f"{grid.inference_steps} steps"


def _count_known(scheduler: Any, settings: GridSettings, calls: int) -> int:
    """How many noises a run takes, the initial one among them, and latents that it is given."""
    number = itertools.count()
    one = torch.ones(1)
    _walk(scheduler, settings, (one for _ in number), [one] * calls)
    return next(number)


def _walk(
    scheduler: Any, settings: GridSettings, known: Iterable[Tensor], predictions: Iterable[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Run the sampler on vectors: `known` are what it begins from, then the noises that it draws.

    Returns the denoiser's inputs and the final latents, each as a vector.
    """
    settings.apply(scheduler)
    values = (value.reshape(1, 1, 1, -1) for value in known)
    latents = next(values)
    if settings.grid.adds_noise:
        latents = add_noise(scheduler, settings, latents, next(values))
    elif not settings.grid.takes_latents:
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
    given = {} if settings.eta is None else {"eta": settings.eta}
    takes = inspect.signature(scheduler.step).parameters
    # Some schedulers keep no memory of their own: pipelines give them what the last step returned.
    memory = {name: None for name in _REMEMBERED if name in takes}
    inputs = []
    with noise_drawn_by(scheduler, lambda shape: next(values).reshape(shape)):
        for timestep, prediction in zip(settings.part(scheduler), predictions, strict=True):
            inputs.append(scale(latents, timestep).flatten())
            made = prediction.reshape(latents.shape)
            options = {**given, **memory, "return_dict": False}
            latents, *further = (
                scheduler.step(model_output=made, timestep=timestep, sample=latents, **options)
                if memory
                else scheduler.step(made, timestep, latents, **options)
            )
            memory = dict(zip(memory, (*further, timestep), strict=False))
    return inputs, latents.flatten()


def _check_affine(scheduler: Any, settings: GridSettings, table: SamplerTable) -> None:
    """Compare the table with the scheduler itself on two scales of random vectors."""
    for scale in (1.0, 50.0):
        generator = torch.Generator().manual_seed(0)
        values = scale * torch.randn(len(table.final), 256, generator=generator)
        inputs, final = _walk(scheduler, settings, values[: table.known], values[table.known :])
        expected = np.vstack([table.inputs, table.final]) @ values.double().numpy()
        found = np.stack([x.double().numpy() for x in [*inputs, final]])
        error = np.abs(found - expected).max() / np.abs(expected).max()
        if not error < _AFFINE_TOLERANCE:
            on = [name for name in _NONLINEAR if scheduler.config.get(name)]
            advice = (
                f"switch that off with {' '.join(f'--scheduler-option {name}=false' for name in on)}, or "
                if on
                else ""
            )
            msg = (
                f"the scheduler {type(scheduler).__name__} is not an affine map of noises and "
                f"predictions with these settings (off by {error:.1e}): it clips, thresholds or "
                f"draws its noise in a way of its own; {advice}choose another --scheduler"
            )
            raise SearchError(msg)


def _without_unused_noises(table: SamplerTable) -> SamplerTable:
    """The same without trailing noises of weight zero, so that earlier draws stay the same."""
    rows = np.vstack([table.inputs, table.final])
    used = np.flatnonzero(rows[:, : table.known].any(axis=0))
    known = 1 + int(used.max(initial=0))
    kept = [*range(known), *range(table.known, table.final.size)]
    return SamplerTable(table.inputs[:, kept], table.final[kept], known - table.given, table.given)
