"""With no option, the picture is that of diffusers' own call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample

GUIDANCE = {
    "three-levels": 7.5,
    "sdxl": 5.0,
    "sd3": 7.0,
    "flux-dev": 3.5,
    "aura-flow": 3.5,
    "pixart-sigma": 4.5,
    "learned-variance": 4.0,
}
STEPS = {
    "three-levels": 50,
    "sdxl": 50,
    "sd3": 28,
    "flux-dev": 28,
    "aura-flow": 50,
    "pixart-sigma": 20,
    "learned-variance": 50,
}
"""As the pipelines' documentation has it."""


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_default_number_of_steps_is_the_pipelines_own(
    pipelines: Callable[[str], Path], name: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    assert opened.default_steps == STEPS[name]
    assert Options().grid(opened.default_steps).inference_steps == STEPS[name]
    assert Options(steps=3).grid(opened.default_steps).inference_steps == 3


@pytest.mark.parametrize("name", sorted(GUIDANCE))
def test_the_default_guidance_is_the_pipelines_own(
    pipelines: Callable[[str], Path], name: str
) -> None:
    opened = open_pipeline(pipelines(name))
    subnet = full(opened, Options(steps=2))
    assert subnet.guidance == GUIDANCE[name]
    is_text = opened.family.classes(opened.pipe) == 0
    prompt = "a red cross" if is_text else "7"
    request = Request((prompt,), steps=2, guidance=subnet.guidance)
    mine = sample(opened, request, subnet, generator=torch.Generator().manual_seed(3)).images

    pipe = DiffusionPipeline.from_pretrained(pipelines(name), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    asked: dict[str, Any] = {"prompt": prompt} if is_text else {"class_labels": [7]}
    if name.startswith("pixart"):
        asked["use_resolution_binning"] = False
    if name == "aura-flow":
        asked |= {"height": 16, "width": 16}  # of its own it takes 1024, whatever its denoiser says
    its = pipe(
        **asked,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    assert mine is not None
    np.testing.assert_allclose(mine, its, atol=1e-5)
