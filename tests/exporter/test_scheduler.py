"""The scheduler that is exported for diffusers, in diffusers' own pipelines, against the reference."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline

from exporter.errors import ExportError
from exporter.scheduler import not_included, reduced_sampler, write_scheduler
from search.core.actions import Action
from search.core.sampler import FittedSampler, SamplerTable
from search.core.subnet import SubNet
from search.core.table import with_actions
from search.fitting.half_calls import Halves
from search.methods.options import Options
from search.methods.whole import full
from search.model.bound_scheduler import fitted_scheduler
from search.model.family import Request
from search.model.fitted_scheduler import FittedScheduler
from search.model.opening import open_asked, open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample

GUIDANCE = 3.0
PROMPT = "a large red cross"


def own_table(opened: Pipeline, subnet: SubNet) -> SamplerTable:
    binding = subnet.binding
    return opened.sampler(binding.grid, opened.size(binding.noise_shape))


def held(opened: Pipeline) -> SubNet:
    """Six steps, two of which repeat the prediction before."""
    whole = full(opened, Options(steps=6, guidance=GUIDANCE))
    return with_actions(
        whole, lambda step, _: Action.REUSE if step in (2, 4) else Action.RUN, method="hold"
    )


def fitted(opened: Pipeline) -> SubNet:
    """Four calls in the place of six, with rows and times that no scheduler has."""
    whole = full(opened, Options(steps=6, guidance=GUIDANCE))
    random = np.random.default_rng(0)
    table = own_table(opened, full(opened, Options(steps=4, guidance=GUIDANCE)))
    moved = np.tril(random.uniform(0.9, 1.1, table.inputs.shape))
    moved[0, 0] = 1
    inputs = table.inputs * moved
    times = [t + 0.25 for t in opened.timesteps(replace(whole.binding.grid, inference_steps=4))]
    rows = FittedSampler(tuple(times), replace(table, inputs=inputs, final=table.final * 1.01))
    return replace(whole, actions=whole.actions[:4], fitted=rows)


def plain(folder: Path, scheduler: Path, prompt: str, steps: int, **options: Any) -> Any:
    """Pictures of diffusers' own pipeline and nothing else, with the exported scheduler."""
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FittedScheduler.from_pretrained(scheduler)
    what = {"class_labels": [0]} if type(pipe).__name__ == "DiTPipeline" else {"prompt": prompt}
    return pipe(
        **what,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **options,
    ).images


def reference(opened: Pipeline, subnet: SubNet, prompt: str) -> Any:
    words = opened.family.default_prompt if opened.family.classes(opened.pipe) else prompt
    ask = Request((words,), subnet.binding.inference_steps, GUIDANCE)
    return sample(opened, ask, subnet, generator=torch.Generator().manual_seed(5)).images


def exported(opened: Pipeline, subnet: SubNet, out: Path) -> FittedScheduler:
    table = own_table(opened, subnet) if subnet.fitted is None else subnet.fitted.table
    scheduler = fitted_scheduler(subnet, reduced_sampler(subnet, table))
    write_scheduler(scheduler, out)
    return scheduler


@pytest.mark.parametrize("name", ["three-levels", "two-levels", "sdxl"])
def test_held_steps_of_a_unet_are_gone_and_the_pictures_are_the_references(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    opened = open_pipeline(pipelines(name))
    subnet = held(opened)
    calls = exported(opened, subnet, tmp_path).num_inference_steps
    assert calls == subnet.steps - 2
    assert not_included(subnet) is None
    found = plain(pipelines(name), tmp_path, PROMPT, calls)
    expected = reference(opened, subnet, PROMPT)
    assert np.abs(found - expected).max() <= 1e-5
    assert np.abs(found - reference(opened, full(opened, Options(steps=6)), PROMPT)).max() > 1e-4


BINNED = {"use_resolution_binning": False}
"""Without it, PixArt samples at another size and scales the picture."""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shapes-sd", {}),
        ("shapes-dit", {}),
        ("sd3", {}),
        ("flux-dev", {}),
        ("aura-flow", {"height": 16, "width": 16}),
        ("pixart-sigma", {"height": 16, "width": 16, **BINNED}),
    ],
)
def test_fitted_rows_make_the_references_pictures(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    opened = open_pipeline(pipelines(name))
    subnet = fitted(opened)
    assert exported(opened, subnet, tmp_path).num_inference_steps == 4
    found = plain(pipelines(name), tmp_path, PROMPT, 4, **options)
    assert np.abs(found - reference(opened, subnet, PROMPT)).max() <= 1e-5


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "sdxl"])
def test_the_schedulers_own_rows_make_the_pipelines_own_pictures(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    opened = open_pipeline(pipelines(name))
    subnet = full(opened, Options(steps=5, guidance=GUIDANCE))
    scheduler = exported(opened, subnet, tmp_path)
    assert (scheduler.config.latent_shape is None) == (name != "flux-dev"), (
        "it shifts with the size"
    )
    pipe = DiffusionPipeline.from_pretrained(pipelines(name))
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        PROMPT,
        num_inference_steps=5,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    assert np.abs(plain(pipelines(name), tmp_path, PROMPT, 5) - expected).max() <= 1e-5


def test_another_number_of_steps_and_other_sigmas_are_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("flux-dev"))
    exported(opened, fitted(opened), tmp_path)
    with pytest.raises(ValueError, match=r"28 inference steps .* makes 4 calls .* give num_inf"):
        plain(pipelines("flux-dev"), tmp_path, PROMPT, 28)
    with pytest.raises(ValueError, match=r"the sigmas \[0\.9, 0\.5, 0\.3, 0\.1\] .* leave sigmas="):
        plain(pipelines("flux-dev"), tmp_path, PROMPT, 4, sigmas=[0.9, 0.5, 0.3, 0.1])
    with pytest.raises(ValueError, match=r"shape \[64, 16\] here, .* made for \[\d+, 16\]; give"):
        plain(pipelines("flux-dev"), tmp_path, PROMPT, 4, height=32, width=32)


def test_a_picture_to_begin_from_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    exported(opened, held(opened), tmp_path)
    pipe = StableDiffusionImg2ImgPipeline(**opened.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FittedScheduler.from_pretrained(tmp_path)
    for strength in (0.6, 1.0):
        with pytest.raises(ValueError, match=r"begins at .*; use it for text to image only"):
            pipe(PROMPT, image=torch.rand(1, 3, 24, 24), strength=strength, num_inference_steps=4)


def test_a_run_starts_anew_and_never_makes_more_calls() -> None:
    scheduler = FittedScheduler([999.0, 500.0], [[2.0], [1.0, 3.0]], [1.0, 2.0, 4.0])
    noise, first, second = torch.randn(3, 1, 2, 4, 4)
    for _ in range(2):
        scheduler.set_timesteps(2)
        latents = noise * scheduler.init_noise_sigma
        latents = scheduler.step(first, scheduler.timesteps[0], latents).prev_sample
        assert torch.allclose(latents, noise + 3 * first)
        latents = scheduler.step(second, scheduler.timesteps[1], latents, return_dict=False)[0]
        assert torch.allclose(latents, noise + 2 * first + 4 * second)
    with pytest.raises(ValueError, match="all 2 calls of this scheduler have been made"):
        scheduler.step(second, scheduler.timesteps[1], latents)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"begins at timestep 500, .* at timestep 999"):
        scheduler.step(first, scheduler.timesteps[1], latents)


def test_half_precision_is_summed_in_float32() -> None:
    scheduler = FittedScheduler([1.0], [[1.0]], [1000.0, -1000.0])
    scheduler.set_timesteps(1)
    noise = torch.randn(1, 4, 4).to(torch.bfloat16)
    made = scheduler.step(noise * 0.5, 1.0, noise).prev_sample
    assert made.dtype is torch.bfloat16
    assert torch.equal(made, (1000.0 * (noise - noise * 0.5).float()).to(torch.bfloat16))


def test_the_copied_module_stands_alone(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    written = exported(opened, held(opened), tmp_path)
    module = tmp_path / "fitted_scheduler.py"
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(module.read_text()))
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom)
            else [each.name for each in node.names] if isinstance(node, ast.Import)
            else []
        )
    }  # fmt: skip
    assert imported - set(sys.stdlib_module_names) == {"diffusers", "numpy", "torch"}
    spec = importlib.util.spec_from_file_location("fitted_scheduler", module)
    assert spec is not None
    assert spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    found = alone.FittedScheduler.from_pretrained(tmp_path)
    assert found.config.final == written.config.final
    assert torch.equal(found.timesteps, written.timesteps)


def test_a_pipeline_folder_may_hold_the_export_as_its_scheduler(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, folder = open_pipeline(pipelines("three-levels")), tmp_path / "pipeline"
    shutil.copytree(pipelines("three-levels"), folder)
    shutil.rmtree(folder / "scheduler")
    exported(opened, held(opened), folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["fitted_scheduler", "FittedScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", modules)
    monkeypatch.syspath_prepend(modules)
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert type(pipe.scheduler).__module__ == "diffusers_modules.local.fitted_scheduler"
    assert pipe.scheduler.num_inference_steps == 4


def test_blocks_are_named_as_not_included(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-dit"))
    whole = full(opened, Options(steps=6))
    thin = with_actions(
        whole, lambda s, b: Action.REUSE if s == 2 and b < 2 else Action.RUN, method="thin"
    )
    assert not_included(thin) == (
        "the blocks that 1 of 6 calls do not compute (REUSE): with this scheduler every call computes "
        "all of them"
    )


def test_samplers_that_rows_cannot_be_are_refused(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    later = full(opened, Options(steps=6, start_step=2))
    with pytest.raises(
        ExportError, match=r"begins at step 2 from the latents .* from noise to the"
    ):
        reduced_sampler(later, own_table(opened, later))
    opened.use_scheduler("EulerAncestralDiscreteScheduler")
    drawing = full(opened, Options(steps=6))
    with pytest.raises(
        ExportError, match="EulerAncestralDiscreteScheduler draws noise at its steps"
    ):
        reduced_sampler(drawing, own_table(opened, drawing))


def test_steps_with_a_half_of_guidance_are_refused(pipelines: Callable[[str], Path]) -> None:
    opened = open_asked(pipelines("three-levels"), scheduler=None, split_streams=True)
    whole = full(opened, Options(steps=4))
    table = own_table(opened, whole)
    assert reduced_sampler(whole, table).timesteps == whole.timesteps
    halved = Halves(1, 0).of(whole)
    assert halved is not None
    with pytest.raises(
        ExportError, match=r"1 of 4 steps leave out a half .* use search\.apply, or"
    ):
        reduced_sampler(halved, table)
