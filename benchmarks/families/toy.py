"""What a toy is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Toy:
    """A class of pipelines as a tiny instance with random weights."""

    cls: str
    """Name of the diffusers class."""
    build: Callable[[], DiffusionPipeline]
    """Makes the pipeline, the same one each time."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its call besides prompt, steps, guidance and latents."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its scheduler without which it is refused, as the refusal says."""
    guidance: float = 4.0
    """A scale that guides: `guidance_scale`, or `true_cfg_scale` where the call takes it."""
