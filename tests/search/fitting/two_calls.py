"""A pipeline that makes a call for each half of guidance, and its full sampler with rows of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from search.core.sampler import FittedSampler
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_asked
from search.model.pipeline import Pipeline


def opened_in_two(path: Path) -> Pipeline:
    """The pipeline with split streams."""
    return open_asked(path, scheduler=None, split_streams=True)


def with_own_rows(opened: Pipeline, *, steps: int, guidance: float) -> SubNet:
    """All blocks at all steps, with the scheduler's rows as a fitted sampler."""
    found = full(opened, Options(steps=steps, guidance=guidance))
    table = opened.sampler(found.binding.grid, opened.size(found.binding.noise_shape))
    return replace(found, fitted=FittedSampler(found.timesteps, table))
