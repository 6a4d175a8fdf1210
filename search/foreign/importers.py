"""Files of other projects, by their format: read, checked, and turned into SubNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.foreign.deepcache_file import read_deepcache
from search.foreign.formats import FORMATS
from search.foreign.gate_file import read_gates
from search.foreign.grid_file import read_falling
from search.foreign.mask_file import read_mask
from search.foreign.router_file import THRESHOLD, read_routers
from search.foreign.samplers import (
    subnet_from_lite,
    subnet_from_meancache,
    subnet_from_sigmas,
    subnet_from_timesteps,
)
from search.foreign.smoothcache_file import read_smoothcache
from search.foreign.step_file import read_budcache, read_lemica, read_meancache
from search.foreign.tables import (
    subnet_from_deepcache,
    subnet_from_gates,
    subnet_from_layers,
    subnet_from_mask,
    subnet_from_routers,
    subnet_from_steps,
    subnet_from_taylorseer,
)
from search.foreign.taylorseer_file import read_diffusers_taylorseer, read_openvino_taylorseer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from search.core.subnet import SubNet
    from search.methods.options import Options
    from search.model.pipeline import Pipeline


def require_format(name: str) -> None:
    """Refuse a format that is not one of `FORMATS`."""
    if name not in FORMATS:
        msg = f"unknown format {name!r}; choose one of {', '.join(FORMATS)}"
        raise SearchError(msg)


@dataclass(frozen=True)
class Foreign:
    """What a file says, read and checked.

    Attributes:
        steps: how many steps it is for; None if it does not say.
        subnet: makes the SubNet for a pipeline.
    """

    steps: int | None
    subnet: Callable[[Pipeline, Options], SubNet]


def read_foreign(path: Path, format_name: str, threshold: float | None = None) -> Foreign:
    """Read a file of one of `FORMATS`.

    Args:
        path: the file.
        format_name: what it is.
        threshold: for `learning-to-cache`; None is the one of the published routers.

    Raises:
        SearchError: it is not what it should be.
    """
    require_format(format_name)
    if threshold is not None and format_name != "learning-to-cache":
        msg = f"--threshold is for learning-to-cache, not for {format_name}; leave it out"
        raise SearchError(msg)
    if format_name == "learning-to-cache":
        routers = read_routers(path, THRESHOLD if threshold is None else threshold)
        return Foreign(len(routers.logits), lambda p, o: subnet_from_routers(p, routers, o))
    return READERS[format_name](path)


def _read_gates(path: Path) -> Foreign:
    gates = read_gates(path)
    return Foreign(len(gates), lambda p, o: subnet_from_gates(p, gates, o))


def _read_deepcache(path: Path) -> Foreign:
    parameters = read_deepcache(path)
    return Foreign(None, lambda p, o: subnet_from_deepcache(p, parameters, o))


def _read_smoothcache(path: Path) -> Foreign:
    schedule = read_smoothcache(path)
    return Foreign(schedule.steps, lambda p, o: subnet_from_layers(p, schedule, o))


def _read_mask(path: Path) -> Foreign:
    mask = read_mask(path)
    return Foreign(len(mask.computes), lambda p, o: subnet_from_mask(p, mask, o))


def _read_lemica(path: Path) -> Foreign:
    steps = read_lemica(path)
    return Foreign(steps.numbers[-1] + 1, lambda p, o: subnet_from_steps(p, steps, o, "lemica"))


def _read_budcache(path: Path) -> Foreign:
    steps = read_budcache(path)
    return Foreign(None, lambda p, o: subnet_from_steps(p, steps, o, "budcache"))


def _read_meancache(path: Path) -> Foreign:
    mean = read_meancache(path)
    return Foreign(mean.steps.numbers[-1] + 1, lambda p, o: subnet_from_meancache(p, mean, o))


def _read_openvino(path: Path) -> Foreign:
    settings = read_openvino_taylorseer(path)
    return Foreign(None, lambda p, o: subnet_from_lite(p, settings, o))


def _read_diffusers(path: Path) -> Foreign:
    settings = read_diffusers_taylorseer(path)
    make = subnet_from_taylorseer if settings.modules else subnet_from_lite
    return Foreign(None, lambda p, o: make(p, settings, o))


def _read_timesteps(path: Path) -> Foreign:
    numbers = read_falling(path, "timesteps")
    return Foreign(None, lambda p, o: subnet_from_timesteps(p, numbers, o))


def _read_sigmas(path: Path) -> Foreign:
    numbers = read_falling(path, "sigmas")
    return Foreign(None, lambda p, o: subnet_from_sigmas(p, numbers, o))


READERS: dict[str, Callable[[Path], Foreign]] = {
    "dip-go-gates": _read_gates,
    "deepcache": _read_deepcache,
    "smoothcache": _read_smoothcache,
    "cache-dit-mask": _read_mask,
    "lemica": _read_lemica,
    "budcache": _read_budcache,
    "meancache": _read_meancache,
    "openvino-taylorseer": _read_openvino,
    "diffusers-taylorseer": _read_diffusers,
    "timesteps": _read_timesteps,
    "sigmas": _read_sigmas,
}
"""Format -> its reader; `learning-to-cache`, which takes a threshold, has one of its own."""
