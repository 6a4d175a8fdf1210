"""Searches in half precision: the denoiser alone is in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor, nn

from search.core.granularity import Granularity
from search.core.precision import denoiser_precisions
from search.core.topology import Target
from search.distill.student import prune, save_pipeline
from search.methods.options import Options
from search.methods.registry import search
from search.methods.whole import full
from search.model.computing import compute_in
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import Trajectory, sample
from search.model.removed import KEY

HALF = [each.name for each in denoiser_precisions() if each.bytes == 2]
STEPS, GUIDANCE, PROMPT = 3, 3.0, "a red cross"
NAMES = ["three-levels", "sd3", "flux-dev", "aura-flow", "pixart-sigma", "sdxl"]


def run(opened: Pipeline, seen: set[torch.dtype] | None = None) -> Trajectory:
    subnet = full(opened, Options(steps=STEPS, guidance=GUIDANCE))
    latents = noise(subnet.binding.latent_shape)
    request = Request((PROMPT,), STEPS, GUIDANCE, latents=latents)

    def observe(step: int, target: Target, tensor: Tensor) -> None:
        if seen is not None:
            seen.add(tensor.dtype)

    return sample(opened, request, subnet, observe=observe)


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


def all_in(path: Path, dtype: torch.dtype, latents: Tensor) -> Tensor:
    """Final latents of diffusers' own call with every part in `dtype`."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(path, dtype=dtype)
    binned = "use_resolution_binning" in inspect.signature(pipe.__call__).parameters
    own_size = {"use_resolution_binning": False} if binned else {}
    with torch.no_grad():
        made = pipe(
            prompt=PROMPT,
            **own_size,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            latents=latents.to(dtype),
            output_type="latent",
            return_dict=False,
        )[0]
    return torch.as_tensor(made).float()


def distance(made: Tensor, whole: Tensor) -> float:
    return float((made - whole).norm() / whole.norm())


class Toy(nn.Module):
    _keep_in_fp32_modules = ("kept",)

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.kept = nn.Linear(3, 3), nn.Linear(3, 3)
        self.seen: list[torch.dtype] = []

    def forward(self, sample: Tensor, timestep: Tensor, ids: Tensor) -> tuple[Tensor]:
        self.seen += [sample.dtype, timestep.dtype, ids.dtype]
        return (self.inner(sample) + self.kept(sample.float()).to(sample.dtype),)


@pytest.mark.parametrize("dtype", HALF)
def test_pictures_are_cast_and_timesteps_are_not(dtype: str) -> None:
    toy, half = Toy(), getattr(torch, dtype)
    compute_in(toy, half)
    [made] = toy(torch.ones(2, 3), torch.ones(2), torch.ones(2, 3, dtype=torch.int64))
    assert toy.seen == [half, torch.float32, torch.int64]
    assert (toy.inner.weight.dtype, toy.kept.weight.dtype) == (half, torch.float32)
    assert made.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_in_half_precision_and_the_sampler_is_not(
    pipelines: Callable[[str], Path], name: str, dtype: str
) -> None:
    whole = run(open_pipeline(pipelines(name))).latents[-1]
    seen: set[torch.dtype] = set()
    made = run(open_pipeline(pipelines(name), dtype=dtype), seen)
    assert getattr(torch, dtype) in seen
    assert {t.dtype for t in (*made.latents, *made.predictions)} == {torch.float32}
    theirs = all_in(pipelines(name), getattr(torch, dtype), noise(tuple(whole.shape[1:])))
    assert 0 < distance(made.latents[-1], whole) < 1.5 * distance(theirs, whole) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["carve", "dip-go", "laptop", "full"])
def test_methods_search_in_half_precision(pipelines: Callable[[str], Path], method: str) -> None:
    opened = open_pipeline(pipelines("three-levels"), dtype="bfloat16")
    granularity = Granularity.LAYER if method == "laptop" else Granularity.BRANCH
    options = Options(
        steps=4,
        guidance=GUIDANCE,
        granularity=granularity,
        iterations=2,
        pictures=4,
        tuples=4,
        prompts=(PROMPT, "a dog"),
    )
    found = search(opened, method, options)
    assert found.origin is not None
    assert found.origin.options.get("dtype") == (None if method == "full" else "bfloat16")
    assert found.binding.fingerprint == open_pipeline(pipelines("three-levels")).fingerprint


@pytest.mark.slow
def test_a_pipeline_with_removed_blocks_computes_in_half_precision_too(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    teacher = open_pipeline(pipelines("three-levels"), dtype="bfloat16")
    [first, *_] = teacher.family.blocks(teacher.denoiser, Granularity.LAYER)
    student = prune(teacher, [first])
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    save_pipeline(teacher, student, tmp_path / "student")
    opened = open_pipeline(tmp_path / "student", dtype="bfloat16")
    assert opened.denoiser.config[KEY] == [first]
    assert opened.dtype == "bfloat16"
    whole = run(open_pipeline(tmp_path / "student")).latents[-1]
    assert 0 < distance(run(opened).latents[-1], whole) < 0.1
