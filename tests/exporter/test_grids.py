"""Lists of times for other tools, against diffusers' own schedulers and pipelines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from exporter.errors import ExportError
from exporter.formats import LISTS
from exporter.grids import GRIDS, grid_text
from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample

STEPS, GUIDANCE = 5, 3.0
PROMPT = "a small blue square"


def opened(folder: Path, scheduler: str | None) -> Pipeline:
    pipeline = open_pipeline(folder)
    if scheduler is not None:
        pipeline.use_scheduler(scheduler)
    return pipeline


def read_as_comfyui_does(text: str) -> list[float]:
    """The expression in ComfyUI's node ManualSigmas."""
    return [float(each) for each in re.findall(r"[-+]?(?:\d*\.*\d+)", text)]


def test_the_formats_are_those_of_the_command() -> None:
    assert tuple(GRIDS) == LISTS


@pytest.mark.parametrize(
    ("name", "scheduler", "format_name"),
    [
        ("three-levels", "EulerDiscreteScheduler", "timesteps"),
        ("three-levels", "EulerDiscreteScheduler", "sigmas"),
        ("three-levels", "DPMSolverMultistepScheduler", "timesteps"),
        ("sd3", None, "sigmas"),
        ("flux-dev", None, "sigmas"),
    ],
)
def test_diffusers_samples_alike_with_the_list(
    pipelines: Callable[[str], Path], name: str, scheduler: str | None, format_name: str
) -> None:
    pipeline = opened(pipelines(name), scheduler)
    subnet = full(pipeline, Options(steps=STEPS, guidance=GUIDANCE))
    given = {format_name: json.loads(grid_text(subnet, format_name, pipeline))}
    plain: Any = DiffusionPipeline.from_pretrained(pipelines(name))
    plain.set_progress_bar_config(disable=True)
    if scheduler is not None:
        plain.scheduler = type(pipeline.pipe.scheduler).from_config(plain.scheduler.config)
    found = plain(
        PROMPT, guidance_scale=GUIDANCE, generator=torch.manual_seed(5), output_type="np", **given
    ).images
    ask = Request((PROMPT,), STEPS, GUIDANCE)
    expected = sample(pipeline, ask, subnet, generator=torch.Generator().manual_seed(5)).images
    assert np.abs(found - expected).max() <= 1e-4, "seven digits of each timestep"


@pytest.mark.parametrize(
    ("name", "scheduler"), [("three-levels", "EulerDiscreteScheduler"), ("sd3", None)]
)
@pytest.mark.parametrize(
    ("format_name", "read"),
    [
        ("comfyui", read_as_comfyui_does),
        ("sd-cpp", lambda text: [float(each) for each in text.split(",")]),
    ],
)
def test_other_tools_read_the_sigmas_of_diffusers(
    pipelines: Callable[[str], Path],
    name: str,
    scheduler: str | None,
    format_name: str,
    read: Callable[[str], list[float]],
) -> None:
    pipeline = opened(pipelines(name), scheduler)
    subnet = full(pipeline, Options(steps=STEPS, guidance=GUIDANCE))
    own = pipeline.pipe.scheduler
    own.set_timesteps(STEPS)
    text = grid_text(subnet, format_name, None)
    assert read(text) == pytest.approx(own.sigmas.tolist(), rel=1e-5)
    assert "e" not in text


def test_small_sigmas_have_no_exponent() -> None:
    text = GRIDS["comfyui"](FlowMatchEulerDiscreteScheduler(), [900.0, 0.03], None)
    assert read_as_comfyui_does(text) == pytest.approx([0.9, 3e-5, 0])


def test_a_sampler_of_second_order_has_each_time_once(pipelines: Callable[[str], Path]) -> None:
    pipeline = opened(pipelines("three-levels"), "HeunDiscreteScheduler")
    subnet = full(pipeline, Options(steps=4))
    assert subnet.steps == 7
    assert len(json.loads(grid_text(subnet, "timesteps", None))) == 4


def test_lists_that_cannot_be_are_refused(pipelines: Callable[[str], Path]) -> None:
    flux = opened(pipelines("flux-dev"), None)
    subnet = full(flux, Options(steps=4))
    with pytest.raises(ExportError, match="depend on the size of the picture; give the pipeline"):
        grid_text(subnet, "sigmas", None)
    sd = opened(pipelines("three-levels"), None)
    sd.use_scheduler("EulerDiscreteScheduler", {"use_karras_sigmas": True})
    karras = full(sd, Options(steps=4))
    with pytest.raises(SearchError, match=r"does not take these timesteps: .*karras"):
        grid_text(karras, "timesteps", None)
    endless = DDIMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(
        SearchError, match="schedule of DDIMScheduler has no finite sigma at timestep 9"
    ):
        GRIDS["comfyui"](endless, [999.0, 500.0], None)
    with pytest.raises(ExportError, match=r"ends before step 3, .* from noise to the end"):
        grid_text(full(sd, Options(steps=4, end_step=3)), "timesteps", None)
