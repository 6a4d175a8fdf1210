"""Which engines and precisions are measured here, and why others are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError
from engines.kinds import ENGINES, engine_kind
from engines.parity import ONNX
from search.core.precision import denoiser_precisions, precision_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engines.base import Engine
    from engines.optimize.settings import OptimizeSettings


@dataclass(frozen=True)
class Candidates:
    """What there is to choose from.

    Attributes:
        engines: per type of `--dtype` and scheme of quantisation, names of those that run here.
        builders: names of those that only build for another machine.
        left_out: what is not measured -> why.
    """

    engines: dict[str, tuple[str, ...]]
    builders: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def find_candidates(settings: OptimizeSettings) -> Candidates:
    """Look at every engine that was asked for, or at all there are.

    Raises:
        EngineError: one that was asked for does not work here, or none runs here.
    """
    running, builders, left_out = list[str](), list[str](), dict[str, str]()
    for name in settings.engines or [kind.name for kind in ENGINES]:
        kind = engine_kind(name)
        builds_only = settings.device in kind.builds_only
        try:
            engine = engine_for(settings, name)
            if builds_only:
                engine.key()  # for which GPU
        except (EngineError, ImportError) as error:
            if settings.engines:
                raise
            left_out[name] = str(error)
            continue
        if builds_only:
            builders.append(name)
            left_out[name] = f"it was built, but on {settings.device} it cannot run"
        else:
            running.append(name)
    found = {
        dtype: tuple(name for name in running if _runs(name, settings.device, dtype))
        for dtype in settings.dtypes
    }
    for dtype, names in found.items():
        for name in running:
            if name not in names:
                left_out[f"{name} in {dtype}"] = f"it has no {dtype} kernels on {settings.device}"
    if not any(found.values()):
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        msg = f"no engine runs {', '.join(found)} on {settings.device} ({why}); give another"
        raise EngineError(msg)
    schemes = _schemes(settings, running)
    if not schemes:
        left_out["quantised layers"] = "none were tried; --precision tries those that it names"
    others = [p.name for p in denoiser_precisions() if p.name not in settings.dtypes]
    if others:
        left_out[", ".join(others)] = "not asked for; --dtype measures several precisions"
    return Candidates({**found, **schemes}, tuple(builders), left_out)


def _schemes(settings: OptimizeSettings, running: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Scheme of quantisation -> names of the engines that multiply fast in it.

    Raises:
        EngineError: one that was asked for is of no engine here.
    """
    known = {
        name: engine_kind(name).schemes.get(settings.device, ())
        for name in running
        if _runs(name, settings.device, settings.dtypes[0])
    }
    wanted = settings.precisions
    if wanted is None:
        wanted = tuple(
            dict.fromkeys(each[0] for each in known.values() if each and settings.tier.quantises)
        )
    found = {
        scheme: tuple(name for name, schemes in known.items() if scheme in schemes)
        for scheme in wanted
    }
    for scheme, names in found.items():
        if not names:
            can = sorted({each for schemes in known.values() for each in schemes})
            msg = (
                f"no engine that runs here multiplies fast in {scheme}; give --precision "
                f"{' or '.join([*can, 'none'])}"
            )
            raise EngineError(msg)
    return found


def engine_for(settings: OptimizeSettings, name: str) -> Engine:
    """The engine with those of the options that it takes."""
    takes = engine_kind(name).options.get(settings.device, ())
    capability = settings.compute_capability if "compute_capability" in takes else None
    return make_engine(name, settings.device, EngineOptions(compute_capability=capability))


def _runs(name: str, device: str, dtype: str) -> bool:
    """Whether the engine has kernels for this precision."""
    return (name, device) != ONNX or precision_named(dtype).on_cpu
