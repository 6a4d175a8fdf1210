"""How the range of a layer's inputs is chosen. No framework."""

from __future__ import annotations

import enum


class Ranges(enum.StrEnum):
    """How the range of a layer's inputs is chosen.

    MINMAX covers everything that was seen. PERCENTILE leaves out the outermost numbers of each call.
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
