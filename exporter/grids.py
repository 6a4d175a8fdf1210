"""When a SubNet calls the denoiser, as lists that other tools read. How its sampler steps is not in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import ExportError
from exporter.scheduler import predicting_steps
from search.core.program import distinct
from search.model.bound_scheduler import bound_scheduler
from search.model.noise_levels import asked_sigmas, noise_levels, require_reached, takes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

    Write = Callable[[Any, Sequence[float], float | None], str]
    """Of a scheduler, the timesteps of the calls, and the shift for the picture's size, the text of a file."""


def _timesteps(scheduler: Any, timesteps: Sequence[float], mu: float | None) -> str:
    """What diffusers takes as `timesteps=`; whole numbers are integers there."""
    asked = [int(t) if t == int(t) else t for t in timesteps]
    if takes(scheduler, "timesteps"):
        require_reached(scheduler, "timesteps", asked, timesteps, mu)
    return json.dumps(asked) + "\n"


def _sigmas(scheduler: Any, timesteps: Sequence[float], mu: float | None) -> str:
    """What diffusers takes as `sigmas=`."""
    asked = asked_sigmas(scheduler, noise_levels(scheduler, timesteps), mu)
    if takes(scheduler, "sigmas"):
        require_reached(scheduler, "sigmas", asked, timesteps, mu)
    return json.dumps(asked) + "\n"


def _comfyui(scheduler: Any, timesteps: Sequence[float], mu: float | None) -> str:
    """The text of ComfyUI's node ManualSigmas, which does not read exponents."""
    del mu
    return ", ".join(_decimals(noise_levels(scheduler, timesteps))) + "\n"


def _sd_cpp(scheduler: Any, timesteps: Sequence[float], mu: float | None) -> str:
    """The argument of stable-diffusion.cpp's `--sigmas`."""
    del mu
    return ",".join(_decimals(noise_levels(scheduler, timesteps))) + "\n"


def _decimals(levels: Sequence[float]) -> list[str]:
    """Seven digits each, and the end."""
    texts = [
        np.format_float_positional(each, precision=7, fractional=False, unique=False, trim="0")
        for each in levels
    ]
    return [*texts, "0.0"]


GRIDS: dict[str, Write] = {
    "timesteps": _timesteps,
    "sigmas": _sigmas,
    "comfyui": _comfyui,
    "sd-cpp": _sd_cpp,
}
"""Name of a format -> how it is written; those of `exporter.formats`."""


def needs_pipeline(subnet: SubNet, format_name: str) -> bool:
    """Whether the list cannot be written from the SubNet alone."""
    return format_name == "sigmas" and bool(
        subnet.binding.scheduler_config.get("use_dynamic_shifting")
    )


def grid_text(subnet: SubNet, format_name: str, pipeline: Pipeline | None) -> str:
    """The times of the calls of `subnet` as the text of a file.

    Args:
        subnet: from noise to the end.
        format_name: one of `GRIDS`.
        pipeline: that the SubNet is bound to, where `needs_pipeline`.
    """
    binding = subnet.binding
    mu: float | None = None
    if needs_pipeline(subnet, format_name):
        if pipeline is None:
            msg = (
                f"the sigmas that {binding.scheduler} is given depend on the size of the picture; give the "
                "pipeline with --pipeline"
            )
            raise ExportError(msg)
        mu = pipeline.grid_settings(binding.grid, pipeline.size(binding.noise_shape)).mu
    # Samplers of second order call twice at most timesteps, and find the second call themselves.
    timesteps = distinct(subnet.timesteps[step] for step in predicting_steps(subnet))
    return GRIDS[format_name](bound_scheduler(subnet), timesteps, mu)
