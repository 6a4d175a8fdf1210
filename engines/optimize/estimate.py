"""How long a run will take, from a step that is measured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import torch

from engines.optimize.quantised import pictures_of
from search.fitting.trajectories import CHUNK
from search.methods.registry import method_of
from search.model.predictor import Predictor
from search.quantise.layers import layers_of

if TYPE_CHECKING:
    from engines.optimize.work import Work

COMPARED = 6
"""How often the held-out pictures are sampled, as a multiple of the full sampler's calls."""
VERIFIED = 8
"""Runs of the full sampler that `verify` takes as long as."""
FITTED = 6
"""Runs of the SubNet that calibrating, fitting and judging a quantised one take as long as."""
EXPORTED = 4
"""Traces that an export takes as long as."""


def estimate(work: Work, engines: int, schemes: int = 0) -> str:
    """One sentence: minutes of the search and of the rest, on this machine as it is now.

    Args:
        work: its pipeline is opened and traced for this.
        engines: that will be measured, one for each precision.
        schemes: of quantisation, that a plan is made for.
    """
    started = time.time() - psutil.Process().create_time()
    whole = work.whole
    traced = time.time() - psutil.Process().create_time() - started
    call = seconds_per_call(work)
    calls, tier = whole.full_calls, work.settings.tier
    goal = work.settings.goal
    searches = [_search_calls(work, keep) for keep in goal.keeps]
    search = (
        None if None in searches else sum(filter(None, searches)) * _share(len(searches)) * call
    )
    keep = max(goal.keeps)
    rows = 2 * engines + 2
    rest = (
        COMPARED * tier.held_out * calls * call
        + schemes * _quantising_calls(work, calls, keep) * call
        + 2 * len(work.settings.dtypes) * EXPORTED * traced
        + VERIFIED * calls * call
        + rows * (started + (tier.rounds + 1) * calls * call * (1 + keep) / 2)
    )
    words = "an unknown time" if search is None else _minutes(search)
    return (
        f"the search takes {words}, and the rest about {_minutes(rest)}: a call of the denoiser "
        f"takes {1000 * call:.0f} ms per picture here, and the full sampler makes {calls}"
    )


def seconds_per_call(work: Work) -> float:
    """Of PyTorch, for one picture among as many as a search puts into one call."""
    whole, pictures = work.whole, min(CHUNK, work.settings.tier.held_out)
    prompts = [work.prompts[0][i % len(work.prompts[0])] for i in range(pictures)]
    shape = whole.binding.noise_shape
    predictor = Predictor(work.pipeline, prompts, guidance=whole.guidance, noise_shape=shape)
    sample = torch.zeros(pictures, *predictor.latent_shape, device=work.pipeline.pipe.device)
    timestep = torch.tensor(whole.timesteps[0], device=sample.device)
    with torch.no_grad():
        predictor(sample, timestep)
        began = time.perf_counter()
        predictor(sample, timestep).sum().item()
    return (time.perf_counter() - began) / pictures


def _search_calls(work: Work, keep: float) -> float | None:
    """Calls of the denoiser that the search takes, one for each picture; None if unknown."""
    of = method_of(work.settings.method).calls
    return None if of is None else of(work.options, work.whole, keep)


def _quantising_calls(work: Work, calls: int, keep: float) -> float:
    """Calls that a plan takes: pictures of the full sampler, each layer alone, and a fit of the rows."""
    tier, layers = work.settings.tier, len(layers_of(work.pipeline))
    pictures = pictures_of(tier)
    once = layers * tier.probed + FITTED * pictures
    return 2 * pictures * calls + once * calls * keep


def _share(count: int) -> float:
    """Of several searches, those that a bisection makes."""
    return min(1.0, count.bit_length() / count)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes"
