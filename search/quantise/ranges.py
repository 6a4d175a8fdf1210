"""Which layers are quantised, and how the ranges of their inputs are chosen. No framework."""

from __future__ import annotations

import enum


class Kinds(enum.StrEnum):
    """Which layers may be quantised.

    LINEAR leaves convolutions in floating point, for engines with integer kernels for linear layers only.
    """

    ALL = "all"
    LINEAR = "linear"


class Ranges(enum.StrEnum):
    """How the range of a layer's inputs is chosen.

    MINMAX covers every value that was seen. PERCENTILE leaves out the outermost values of each call. MSE
    leaves out what makes the mean squared error of the layer's outputs least.
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
