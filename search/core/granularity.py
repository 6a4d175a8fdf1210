"""How finely a denoiser is cut into blocks. No framework, not even numpy."""

from __future__ import annotations

import enum


class Granularity(enum.StrEnum):
    """Which submodules of the denoiser are blocks."""

    STAGE = "stage"
    BRANCH = "branch"
    LAYER = "layer"
