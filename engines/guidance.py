"""The guidance scale of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.errors import EngineError
from search.core.sampler import refused_scale

if TYPE_CHECKING:
    from exporter.bundle import Bundle


def guidance_of(bundle: Bundle, guidance: float | None, negative: str) -> float:
    """The guidance scale of a run; None is the bundle's.

    Raises:
        EngineError: the bundle takes no negative prompt, or not this scale.
    """
    scale = bundle.guidance if guidance is None else guidance
    if negative and not bundle.takes_negative:
        what = "is class-conditional" if bundle.takes_labels else "was exported without guidance"
        msg = f"the bundle {what}, so it takes no negative prompt; leave it out"
        raise EngineError(msg)
    if why := refused_scale(scale, *(bundle.subnet.guidance_range or (scale, scale))):
        raise EngineError(why)
    if bundle.guided and scale <= 1:
        msg = (
            f"guidance {scale} switches guidance off, but the bundle was exported with it; "
            "search and export with --guidance 1, or give a scale above 1"
        )
        raise EngineError(msg)
    if not bundle.scaled and max(scale, bundle.guidance) > 1 and scale != bundle.guidance:
        how = f"for {bundle.guidance:g} alone" if bundle.guidance > 1 else "without guidance"
        msg = (
            f"guidance {scale:g} was requested, but the bundle was exported {how}; "
            f"search and export with --guidance {scale:g}"
        )
        raise EngineError(msg)
    return scale
