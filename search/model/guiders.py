"""Parts of a pipeline that guide: diffusers' guiders."""

from __future__ import annotations

from typing import Any

from diffusers.guiders import BaseGuidance


def guider_scale(pipe: Any) -> float:
    """The guidance scale of a pipeline whose call takes none; 1, which is none, without a guider."""
    guiders = [part for part in pipe.components.values() if isinstance(part, BaseGuidance)]
    return float(getattr(guiders[0], "guidance_scale", 1.0)) if guiders else 1.0
