"""Fitted samplers of whole calls, for one guidance scale or a range of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from search.core.sampler import FittedSampler
from search.fitting.rows import rows_of, table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from search.core.sampler import SamplerTable
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories


def fitted_sampler(runs: Trajectories, placed: Placed) -> FittedSampler:
    """The timesteps and rows of placed calls, each of which is a step.

    Rows for a range of guidance scales are the polynomial through those of the scales of the pictures.
    """
    timesteps = tuple(float(runs.timestep_at(torch.tensor(p))) for p in placed.positions)
    count = len(timesteps)
    each = [
        FittedSampler(
            timesteps,
            table_of(
                [row.view(-1, runs.scale_count)[:, number] for row in placed.rows],
                runs.first,
                steps=range(count),
                predicts=(True,) * count,
                total=count,
            ),
        )
        for number in range(runs.scale_count)
    ]
    if runs.scales is None:
        return each[0]
    return FittedSampler.through(dict(zip(runs.scales.fitted_at, each, strict=True)), runs.scales)


def rows_for(runs: Trajectories, table_at: Callable[[float], SamplerTable]) -> tuple[Tensor, ...]:
    """The rows of a table per guidance scale, as `walk` takes them for `runs`."""
    scales = (0.0,) if runs.scales is None else runs.scales.fitted_at
    each = [rows_of(table_at(scale)) for scale in scales]
    return tuple(
        torch.stack(rows, dim=-1).flatten().to(runs.noise) for rows in zip(*each, strict=True)
    )
