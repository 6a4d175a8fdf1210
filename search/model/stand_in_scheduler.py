"""What takes the place of a diffusers scheduler while a pipeline runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from search.core.errors import SearchError
from search.model.scheduler import combine

if TYPE_CHECKING:
    from search.core.sampler import FittedSampler

_BY = "_stepcarve_timesteps_by"


class FixedTimestep(float):
    """A timestep as a float, for tracing: a traced tensor has no value to read.

    What pipelines compute of it is one too.
    """

    __slots__ = ()

    def __truediv__(self, other: float) -> FixedTimestep:
        return FixedTimestep(float(self) / other)

    def __mul__(self, other: float) -> FixedTimestep:
        return FixedTimestep(float(self) * other)

    def __rsub__(self, other: float) -> FixedTimestep:
        return FixedTimestep(other - float(self))

    def to(self, *_: Any, **__: Any) -> FixedTimestep:
        """Itself, whatever the dtype."""
        return self

    def expand(self, *shape: int) -> Tensor:
        """As a tensor of that shape."""
        return torch.full(shape, float(self))

    def __getattr__(self, name: str) -> Any:
        """What else pipelines do with it, a tensor does."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.tensor(float(self)), name)


class FixedTimesteps(list[FixedTimestep]):
    """The timesteps of a run that computes with none of them."""

    def __getattr__(self, name: str) -> Any:
        """What else pipelines do with them, a tensor does."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.tensor([float(each) for each in self]), name)


class UnknownError(Exception):
    """A pipeline asks the stand-in for its scheduler for what a step graph does not have.

    Attributes:
        of_copy: whether the pipeline steps copies of its scheduler too.
    """

    def __init__(self, *, of_copy: bool) -> None:
        super().__init__()
        self.of_copy = of_copy

    def sentence(self, cls: str) -> str:
        """Why pipelines of that class are refused."""
        if self.of_copy:
            return (
                f"a {cls} steps copies of its scheduler, as for sound or for frames that are not all as "
                "far, and a bundle steps one set of latents; switch that off with --call if the pipeline's "
                "call can, such as --call sample_audio=false, or take another pipeline"
            )
        return (
            f"a {cls} computes with the noise levels of its scheduler, as to tell its network that of the "
            "next step, and a step graph has the timestep of its own step alone; such pipelines are not "
            "supported"
        )


class _NoiseLevel:
    """One that nobody knows: pipelines may hold it, but not compute with it."""

    def __init__(self, scheduler: StandIn | TableScheduler) -> None:
        self._scheduler = scheduler

    def __float__(self) -> float:
        return math.nan

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UnknownError(of_copy=self._scheduler.is_copied)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = _refuse
    expand = to = item = _refuse


class _Levels(Sequence[Any]):
    """Noise levels that are the timesteps by a number, and none at the end: `[N + 1]`."""

    def __init__(self, timesteps: Tensor, by: float) -> None:
        self._timesteps, self._by = timesteps, by

    def __len__(self) -> int:
        return len(self._timesteps) + 1

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        times = self._timesteps
        return times[place] / self._by if place < len(times) else times.new_zeros(())


def _timesteps_by(own: Any) -> float | None:
    """By what number a scheduler's timesteps are its noise levels; None if by none."""
    known: dict[str, Any] = vars(own)
    if _BY not in known:  # the first time, no trace is running, in which tensors have no values
        known[_BY] = _found_by(own)
    by: float | None = known[_BY]
    return by


def _found_by(own: Any) -> float | None:
    times, levels = (getattr(own, name, None) for name in ("timesteps", "sigmas"))
    by = own.config.get("num_train_timesteps")
    if not by or not isinstance(times, Tensor) or not isinstance(levels, Tensor) or not len(times):
        return None
    ends = levels[len(times) :]
    is_by = len(times) <= len(levels) and torch.allclose(
        levels[: len(times)] * by, times.to(levels)
    )
    is_zero = not ends.any() and not own.config.get("invert_sigmas")
    return float(by) if is_by and is_zero else None


class FixedScheduler:
    """A stand-in for a diffusers scheduler with fixed timesteps; its steps return the latents unchanged.

    Attributes:
        timesteps: of the run; empty for a loop without steps.
        config: of the scheduler whose place it takes.
        init_noise_sigma: what the pipeline multiplies its noise by, if it does that.
        is_copied: whether the pipeline has made a copy of it.
    """

    order = 1
    is_copied = False
    init_noise_sigma = 1.0

    def __init__(self, timesteps: Tensor | list[FixedTimestep], config: Any) -> None:
        is_list = isinstance(timesteps, list)
        self.timesteps: Any = FixedTimesteps(timesteps) if is_list else timesteps
        self.config = config
        # Some pipelines look at the noise levels that the scheduler will take; here they do not count.
        self.sigmas: Any = [FixedTimestep(0.5)] * (len(timesteps) + 1)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        *stage: Any,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Begin a run; the arguments do not change the timesteps.

        Raises:
            SearchError: it is a run of one of several stages.
        """
        if stage and device is not None:
            msg = (
                f"the pipeline gives its scheduler a stage ({stage[0]!r}), so it samples in several loops one "
                "behind the other; such pipelines are not supported"
            )
            raise SearchError(msg)
        device = next(iter(stage), device)
        del num_inference_steps, timesteps, sigmas, mu, others
        self._begin(device)

    def _begin(self, device: Any) -> None:
        """Prepare for a run on `device`."""

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Runs begin at the first timestep."""

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The denoiser's input, as it is."""
        del timestep
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        **others: Any,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Make a step; pipelines also look at the arguments it takes.

        Some schedulers return the clean latents that they expect too, and some pipelines decode those.
        """
        del timestep, others
        latents = self.stepped(model_output, sample)
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents, latents)

    def stepped(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """What a step makes of the latents; here, the same."""
        del prediction
        return sample


class StandIn(FixedScheduler):
    """The same with all that its steps do not need taken from the scheduler whose place it takes."""

    def __init__(self, timesteps: Tensor, own: Any) -> None:
        super().__init__(timesteps, own.config)
        self._own, by = own, _timesteps_by(own)
        unknown = [_NoiseLevel(self)] * (len(timesteps) + 1)
        self.sigmas = unknown if by is None else _Levels(timesteps, by)

    def __deepcopy__(self, memo: Any) -> StandIn:
        """A scheduler for something else, as for sound: it may be there, but not make a step."""
        del memo
        self.is_copied = True
        return _Copy(self.timesteps, self._own)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own, name)


class _Copy(StandIn):
    """A copy of a stand-in, whose steps nobody sees."""

    def stepped(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Refused."""
        del prediction, sample
        raise UnknownError(of_copy=True)


class TableScheduler(FixedScheduler):
    """A fitted sampler in the place of a diffusers scheduler, for the pipelines of diffusers.

    What its `step` calls latents is the denoiser's next input, so `scale_model_input` has nothing
    left to do, and `init_noise_sigma` is what the noise is multiplied with to be the first one.
    """

    def __init__(self, fitted: FittedSampler, config: Any) -> None:
        super().__init__(torch.tensor(fitted.timesteps), config)
        self.sigmas = [_NoiseLevel(self)] * (len(fitted.timesteps) + 1)
        self._timesteps, self.table = fitted.timesteps, fitted.table
        self.init_noise_sigma = float(fitted.table.inputs[0, 0])
        self._values: list[Tensor] = []

    def _begin(self, device: Any) -> None:
        self.timesteps = torch.tensor(self._timesteps, device=device)
        self._values = []

    def stepped(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Keep the prediction; return the next input, or the final latents."""
        if not self._values:
            self._values.append(sample / self.init_noise_sigma)
        self._values.append(prediction)
        made, table = len(self._values) - 1, self.table
        row = table.final if made == len(table.inputs) else table.inputs[made]
        return combine(row, self._values)
