"""Short names of schedulers, and what may be changed about one. No framework."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Choice:
    """A scheduler of diffusers.

    Attributes:
        cls: its class.
        options: settings that differ from those of the pipeline's own scheduler.
    """

    cls: str
    options: Mapping[str, Any] = field(default_factory=dict)


_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}

SHORT_NAMES: dict[str, Choice] = {
    "ddim": Choice("DDIMScheduler"),
    "ddpm": Choice("DDPMScheduler"),
    "pndm": Choice("PNDMScheduler"),
    "lms": Choice("LMSDiscreteScheduler"),
    "lms-karras": Choice("LMSDiscreteScheduler", _KARRAS),
    "euler": Choice("EulerDiscreteScheduler"),
    "euler-karras": Choice("EulerDiscreteScheduler", _KARRAS),
    "euler-a": Choice("EulerAncestralDiscreteScheduler"),
    "heun": Choice("HeunDiscreteScheduler"),
    "heun-karras": Choice("HeunDiscreteScheduler", _KARRAS),
    "dpm2": Choice("KDPM2DiscreteScheduler"),
    "dpm2-karras": Choice("KDPM2DiscreteScheduler", _KARRAS),
    "dpm2-a": Choice("KDPM2AncestralDiscreteScheduler"),
    "dpmpp": Choice("DPMSolverSinglestepScheduler"),
    "dpmpp-2m": Choice("DPMSolverMultistepScheduler"),
    "dpmpp-2m-karras": Choice("DPMSolverMultistepScheduler", _KARRAS),
    "dpmpp-2m-sde": Choice("DPMSolverMultistepScheduler", _SDE),
    "dpmpp-2m-sde-karras": Choice("DPMSolverMultistepScheduler", {**_SDE, **_KARRAS}),
    "dpmpp-sde": Choice("DPMSolverSDEScheduler"),
    "deis": Choice("DEISMultistepScheduler"),
    "unipc": Choice("UniPCMultistepScheduler"),
    "lcm": Choice("LCMScheduler"),
    "tcd": Choice("TCDScheduler"),
    "sa-solver": Choice("SASolverScheduler"),
    "flow-euler": Choice("FlowMatchEulerDiscreteScheduler"),
    "flow-heun": Choice("FlowMatchHeunDiscreteScheduler"),
    "flow-lcm": Choice("FlowMatchLCMScheduler"),
}
"""As people call them; `a` is ancestral, `pp` is ++."""


def choice_of(name: str) -> Choice:
    """The scheduler of a short name, or of a class name as it is."""
    return SHORT_NAMES.get(name.lower().replace("++", "pp").replace("_", "-"), Choice(name))


def require_options(cls: Any, options: Mapping[str, Any]) -> None:
    """Refuse settings that a scheduler's class does not have, and truth values of another type."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name not in ("self", "args", "kwargs")
    }
    for name, value in options.items():
        if name not in known:
            msg = (
                f"{cls.__name__} has no setting {name!r}; choose one of {', '.join(sorted(known))}"
            )
            raise SearchError(msg)
        if isinstance(known[name], bool) and not isinstance(value, bool):
            msg = f"the setting {name!r} of {cls.__name__} is {value!r}; give true or false"
            raise SearchError(msg)
