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
    """The timesteps of a run, as floats."""

    def __getattr__(self, name: str) -> Any:
        """What else pipelines do with them, a tensor does."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.tensor([float(each) for each in self]), name)


class UnknownError(Exception):
    """A pipeline asks the stand-in for its scheduler for a value that a step graph does not have.

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
                f"{cls} steps copies of its scheduler, as for sound or for frames at different noise levels, and "
                "a bundle steps one set of latents; switch that off with --call if the pipeline's "
                "call can, such as --call sample_audio=false, or take another pipeline"
            )
        return (
            f"{cls} computes with the noise levels of its scheduler, for example to give its network that of "
            "the next step, but a step graph knows only the timestep of its own step; such pipelines are not "
            "supported"
        )


class _Unknown:
    """What nobody knows: pipelines may hold it, but not compute with it."""

    _scheduler: StandIn | TableScheduler

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UnknownError(of_copy=self._scheduler.is_copied)

    def __getattr__(self, name: str) -> Any:
        """What a tensor has and this has not."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self._refuse()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __pow__ = __rpow__ = __neg__ = __abs__ = __array__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse


class _NoiseLevel(_Unknown):
    """A noise level that nobody knows."""

    def __init__(self, scheduler: StandIn | TableScheduler) -> None:
        self._scheduler = scheduler

    def __float__(self) -> float:
        return math.nan

    __bool__ = __int__ = __round__ = _Unknown._refuse
    __hash__ = object.__hash__


class _UnknownLevels(_Unknown, list[Any]):
    """The noise levels of a run of so many steps, `[N + 1]`, all unknown."""

    def __init__(self, scheduler: StandIn | TableScheduler, steps: int) -> None:
        super().__init__([_NoiseLevel(scheduler)] * (steps + 1))
        self._scheduler = scheduler


class _Levels(Sequence[Any]):
    """Noise levels that are the timesteps divided by a number, and zero at the end: `[N + 1]`."""

    def __init__(self, timesteps: Tensor, by: float) -> None:
        self._timesteps, self._by = timesteps, by

    def __len__(self) -> int:
        return len(self._timesteps) + 1

    def __getitem__(self, index: Any) -> Any:
        """One of them, without the others in a trace; or what a tensor of them gives."""
        if not isinstance(index, int):
            return self._tensor()[index]
        place, times = range(len(self))[index], self._timesteps
        return times[place] / self._by if place < len(times) else times.new_zeros(())

    def __setitem__(self, index: Any, level: Any) -> None:
        msg = (
            f"the pipeline sets noise level {index!r} of its scheduler itself, and a bundle takes the scheduler's "
            "own; such pipelines are not supported"
        )
        raise SearchError(msg)

    def __getattr__(self, name: str) -> Any:
        """What else pipelines do with them, a tensor does."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._tensor(), name)

    def _tensor(self) -> Tensor:
        times = self._timesteps
        return torch.cat([times / self._by, times.new_zeros(1)])


def _as_tensor(operator: str) -> Any:
    """An operator of `_Levels`, as that of the tensor."""
    return lambda levels, *others: getattr(levels._tensor(), operator)(*others)


for _operator in (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
    *("__rtruediv__", "__pow__", "__rpow__", "__neg__", "__abs__"),
    *("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"),
):
    setattr(_Levels, _operator, _as_tensor(_operator))


def _timesteps_by(own: Any) -> float | None:
    """The number that divides a scheduler's timesteps into its noise levels; None if none does."""
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
        init_noise_sigma: what the pipeline multiplies its noise by, if it does.
        is_copied: whether the pipeline has made a copy of it.
    """

    order = 1
    is_copied = False
    init_noise_sigma = 1.0

    def __init__(self, timesteps: Tensor | list[FixedTimestep], config: Any) -> None:
        is_list = isinstance(timesteps, list)
        self.timesteps: Any = FixedTimesteps(timesteps) if is_list else timesteps
        self.config = config
        # Some pipelines look at the scheduler's noise levels; their values do not matter here.
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
                f"the pipeline gives its scheduler a stage ({stage[0]!r}), so it samples in several loops, one "
                "after the other; such pipelines are not supported"
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
    """A stand-in that has everything but its steps from the scheduler whose place it takes."""

    def __init__(self, timesteps: Tensor, own: Any) -> None:
        super().__init__(timesteps, own.config)
        self._own, by = own, _timesteps_by(own)
        steps = len(timesteps)
        self.sigmas = _UnknownLevels(self, steps) if by is None else _Levels(timesteps, by)

    def __deepcopy__(self, memo: Any) -> StandIn:
        """A scheduler for something else, such as sound: it may exist, but not make a step."""
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
        self.sigmas = _UnknownLevels(self, len(fitted.timesteps))
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
