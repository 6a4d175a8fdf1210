"""Every method on every family, whatever the rank of its latents, and the frontier on packed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.frontier.registry import SERIES
from search.frontier.rivals.guidance import EXTRAPOLATED_GUIDANCE, GUIDANCE_INTERVAL
from search.frontier.rivals.layers import DEEPCACHE
from search.frontier.rivals.solvers import DPM_SOLVER, UNIPC
from search.frontier.rivals.taylorseer import TAYLORSEER_LITE
from search.frontier.run import run_frontier
from search.frontier.settings import FrontierSettings
from search.methods.options import Options
from search.methods.registry import NAMES, method_of, search, search_keeps
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample
from search.model.stand_in_scheduler import TableScheduler
from tests.hand_gating import gated_by_hand
from tests.pipelines import RANDOM

TOYS = {
    "three-levels": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "pixart-alpha": "PixArtAlphaPipeline",
    "pixart-sigma": "PixArtSigmaPipeline",
    "aura-flow": "AuraFlowPipeline",
    "learned-variance": "DiTPipeline",
}
"""One of each family."""
ALL = frozenset(TOYS)
U_NETS = frozenset({"three-levels", "sdxl"})

"""Their blocks have one tensor in and out."""
LARGE = frozenset({"flux-dev", "pixart-alpha"})
"""By default; these are asked for small pictures."""
QUICK = frozenset({"three-levels", "flux-dev", "learned-variance"})
"""A U-Net, packed latents and classes: where the searches that take longest run by default."""
PROMPTS = ("0", "1")
"""Texts, or numbers of classes."""
STEPS, KEEP = 4, 0.75


@dataclass(frozen=True)
class Run:
    """A method with options that make it short.

    Attributes:
        method: its name.
        options: beside the usual ones.
        fits: the toys that it can be used with.
        quick: the toys of the fast tests.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    fits: frozenset[str] = ALL
    quick: frozenset[str] = ALL


RUNS = (
    Run("full"),
    Run("deepcache", {"interval": 2}, fits=U_NETS),
    Run("fewer-steps"),
    Run("random"),
    Run("carve", {"iterations": 2, "pictures": 2}, quick=QUICK),
    Run("dip-go", {"iterations": 1}),
    Run("laptop", {"tuples": 2}, quick=QUICK - U_NETS),
    Run("adopt", quick=QUICK),
    Run("bk-sdm", fits=frozenset()),
    Run("ssd-1b", fits=frozenset()),
    Run("vega", fits=frozenset()),
    Run("every-second", fits=ALL - U_NETS),
)


def each_run() -> list[ParameterSet]:
    return [
        pytest.param(
            run,
            name,
            marks=[] if name in run.quick else [pytest.mark.slow],
            id=f"{run.method}-{name}",
        )
        for run in RUNS
        for name in TOYS
    ]


def test_nothing_is_left_out() -> None:
    assert {run.method for run in RUNS} == set(NAMES)


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Callable[[str], Pipeline]:
    """A toy by name, opened once."""
    found: dict[str, Pipeline] = {}

    def find(name: str) -> Pipeline:
        if name not in found:
            found[name] = open_pipeline(pipelines(name))
        return found[name]

    return find


@pytest.mark.parametrize(("run", "name"), each_run())
def test_a_search_makes_a_subnet_that_equals_its_blocks_gated_by_hand(
    opened: Callable[[str], Pipeline], tmp_path: Path, run: Run, name: str
) -> None:
    pipeline = opened(name)
    size = {"height": 16, "width": 16} if name in LARGE else {}
    options = Options(
        steps=STEPS,
        guidance=3.0,
        granularity=method_of(run.method).granularity,
        prompts=PROMPTS,
        **size,
        **run.options,
    )
    if run.method == "adopt":
        fitted = replace(options, fit_sampler=True)
        search(pipeline, "fewer-steps", fitted).save(tmp_path / "found.json")
        options = replace(options, adopt_sampler=str(tmp_path / "found.json"))
    if name not in run.fits:
        with pytest.raises(SearchError, match=r"choose another method|on a U-Net"):
            search_keeps(pipeline, run.method, options, (KEEP,))
        return
    [subnet] = search_keeps(pipeline, run.method, options, (KEEP,))
    found, expected = final_latents(pipeline, subnet)
    assert found.shape == (1, *subnet.binding.latent_shape)
    assert float((found - expected).norm() / expected.norm()) <= 1e-5


def final_latents(pipeline: Pipeline, subnet: SubNet) -> tuple[Tensor, Tensor]:
    """Of the gated reference, and of diffusers' own pipeline with its blocks gated by hand."""
    binding = subnet.binding
    noise = torch.randn(1, *binding.latent_shape, generator=torch.manual_seed(7))
    ask = Request(PROMPTS[:1], STEPS, subnet.guidance, latents=noise)
    ask = ask.sized(pipeline.size(binding.noise_shape))
    found = sample(pipeline, ask, subnet)
    scheduler = pipeline.pipe.scheduler
    if subnet.fitted is not None:
        scheduler = TableScheduler(subnet.fitted, scheduler.config)
    with (
        gated_by_hand(pipeline.denoiser, subnet, pipeline.family),
        mock.patch.object(pipeline.pipe, "scheduler", scheduler),
    ):
        expected = sample(pipeline, ask.on(binding.grid))
    return found.latents[-1], expected.latents[-1]


@pytest.mark.slow
def test_the_frontier_compares_packed_latents(tmp_path: Path) -> None:
    RANDOM["flux-dev"]().save_pretrained(tmp_path)
    pipeline = open_pipeline(tmp_path)
    pipeline.pipe.default_sample_size = 8
    settings = FrontierSettings(
        steps=8,
        guidance=3.0,
        keeps=(0.7,),
        prompts=PROMPTS[:1],
        held_out=PROMPTS[1:],
        count=2,
        pictures=2,
        iterations=1,
        dip_go_iterations=1,
        random=2,
        fine_steps=16,
    )
    found = run_frontier(pipeline, settings)
    # DeepCache is for U-Nets, solvers of DDIM have no flow here, the guidance is embedded, and the first 6 steps
    # are too dear for TaylorSeer Lite: the notes say so.
    left_out = {each for each in SERIES if any(n.startswith(f"{each} is") for n in found.notes)}
    assert left_out == {
        DEEPCACHE, DPM_SOLVER, UNIPC, GUIDANCE_INTERVAL, EXTRAPOLATED_GUIDANCE, TAYLORSEER_LITE,
    }  # fmt: skip
    assert {point.method for point in found.points} == set(SERIES) - left_out
    assert all(0 < keep_of(point.subnet) <= 0.7 for point in found.points if point.subnet)
    assert all(0 < point.quality.error < 10 for point in found.points)
