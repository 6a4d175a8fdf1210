"""Parts of a pipeline that guide: diffusers' guiders."""

from __future__ import annotations

from typing import Any

from diffusers.guiders import BaseGuidance


def guider_scale(pipe: Any) -> float:
    """The guidance scale of a pipeline whose call takes none; 1, which is none, without a guider."""
    guiders = [part for part in pipe.components.values() if isinstance(part, BaseGuidance)]
    return float(getattr(guiders[0], "guidance_scale", 1.0)) if guiders else 1.0


def without_memory(pipe: Any) -> str:
    """How to switch off the memory of a pipeline's guiders; empty if they have none."""
    files = [
        f'"{key}" null in {name}/guider_config.json'
        for name, part in pipe.components.items()
        if isinstance(part, BaseGuidance)
        for key, value in part.config.items()
        if "momentum" in key and value is not None
    ]
    return f"make {' and '.join(files)}" if files else ""
