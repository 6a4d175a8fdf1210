"""Timesteps as noise levels, and noise levels as what a scheduler of diffusers takes as `sigmas=`.

A noise level (sigma) is the deviation of the noise over that of the picture, or in flow models the share
of noise. ComfyUI and stable-diffusion.cpp mean the same by it.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from search.core.errors import SearchError
from search.model.scheduler import unused

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESPACING = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "shift_terminal",
    "invert_sigmas",
)
"""Settings with which a flow scheduler takes the range of the sigmas it is given, and not their values."""


def noise_levels(scheduler: Any, timesteps: Sequence[float]) -> tuple[float, ...]:
    """The sigma at each timestep.

    Raises:
        SearchError: the scheduler has no noise schedule over timesteps, or one without a finite sigma.
    """
    if _is_flow(scheduler):
        unit = float(scheduler.config.num_train_timesteps)
        return tuple(t / unit for t in timesteps)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        msg = (
            f"{type(scheduler).__name__} has no noise schedule over timesteps, so its grid has no sigmas "
            "that other tools know; export the timesteps, or choose another scheduler"
        )
        raise SearchError(msg)
    kept = np.asarray(alphas, np.float64)
    with np.errstate(divide="ignore"):
        logs = 0.5 * (np.log1p(-kept) - np.log(kept))
    found = np.exp(np.interp(timesteps, np.arange(len(logs)), logs))
    if not np.isfinite(found).all():
        msg = (
            f"the noise schedule of {type(scheduler).__name__} has no finite sigma at timestep "
            f"{timesteps[int(np.argmax(~np.isfinite(found)))]:g} (rescale_betas_zero_snr); export the "
            "timesteps instead"
        )
        raise SearchError(msg)
    return tuple(map(float, found))


def takes(scheduler: Any, name: str) -> bool:
    """Whether the scheduler takes custom `timesteps` or `sigmas`."""
    return name in inspect.signature(scheduler.set_timesteps).parameters


def asked_sigmas(
    scheduler: Any, levels: Sequence[float], mu: float | None = None
) -> tuple[float, ...]:
    """What a pipeline must be given as `sigmas=` so that its calls are at these noise levels.

    Flow schedulers shift what they are given; the others want the end, which is 0, as well.

    Args:
        scheduler: of the pipeline.
        levels: of the calls, noisiest first.
        mu: the shift for the picture's size, for schedulers that take one.

    Raises:
        SearchError: the scheduler moves what it is given in another way.
    """
    if not _is_flow(scheduler):
        return (*levels, 0.0)
    moving = [name for name in _RESPACING if scheduler.config.get(name)]
    if moving:
        msg = (
            f"{type(scheduler).__name__} with {', '.join(moving)} replaces the sigmas that it is given; "
            "choose a scheduler without these settings"
        )
        raise SearchError(msg)
    shift = _shift(scheduler, mu)
    return tuple(sigma / (shift - (shift - 1) * sigma) for sigma in levels)


def require_reached(
    scheduler: Any, name: str, asked: Sequence[float], timesteps: Sequence[float], mu: float | None
) -> None:
    """Refuse a custom grid that the scheduler, which takes such grids, turns into other timesteps."""
    trial = unused(scheduler)
    shift = {} if mu is None else {"mu": mu}
    try:
        trial.set_timesteps(**{name: list(asked)}, **shift)
    except Exception as error:  # each scheduler raises whatever its code runs into
        message = " ".join(str(error).split())
        msg = f"{type(scheduler).__name__} does not take these {name}: {message}; choose another scheduler"
        raise SearchError(msg) from error
    made = list(dict.fromkeys(float(t) for t in trial.timesteps))
    if len(made) != len(timesteps) or not np.allclose(made, timesteps, rtol=1e-4, atol=0.02):
        shown = ", ".join(f"{t:g}" for t in made[:4])
        msg = (
            f"{type(scheduler).__name__} makes timesteps {shown}, ... of these {name}, not those of the "
            "SubNet; export another list, or the scheduler itself"
        )
        raise SearchError(msg)


def _is_flow(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch") or bool(
        scheduler.config.get("use_flow_sigmas")
    )


def _shift(scheduler: Any, mu: float | None) -> float:
    """By how much a flow scheduler moves sigmas towards the noise."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", config.get("flow_shift", 1.0)))
    assert mu is not None, "a pipeline whose scheduler shifts with the size says by how much"
    return math.exp(mu) if config.get("time_shift_type") == "exponential" else mu
