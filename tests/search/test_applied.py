"""A SubNet applied to a pipeline that diffusers loaded, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from search import applied as module
from search.applied import apply
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.core.sampler import FittedSampler
from search.core.subnet import SubNet
from search.fitting.half_calls import Halves
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_asked, open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample
from tests.mixes import random_mix

STEPS, GUIDANCE = 6, 3.0


def loaded(folder: Path, **options: Any) -> Any:
    pipe = DiffusionPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(pipe: Any, steps: int = STEPS, guidance: float = GUIDANCE, **options: Any) -> Any:
    what = {"class_labels": [0]} if type(pipe).__name__ == "DiTPipeline" else {"prompt": "a cross"}
    return pipe(
        **what,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **options,
    ).images


def reference(opened: Pipeline, subnet: SubNet | None) -> Any:
    words = opened.family.default_prompt if opened.family.classes(opened.pipe) else "a cross"
    ask = Request((words,), STEPS, GUIDANCE)
    return sample(opened, ask, subnet, generator=torch.Generator().manual_seed(5)).images


def own_forwards(denoiser: nn.Module) -> list[str]:
    return [name for name, each in denoiser.named_modules() if "forward" in vars(each)]


def mixed(opened: Pipeline, granularity: Granularity = Granularity.BRANCH) -> SubNet:
    whole = full(opened, Options(steps=STEPS, guidance=GUIDANCE, granularity=granularity))
    return random_mix(whole, 0)


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("name", ["three-levels", "shapes-dit", "sd3"])
def test_pictures_are_the_references_and_the_pipeline_is_as_before_afterwards(
    pipelines: Callable[[str], Path], name: str, granularity: Granularity
) -> None:
    opened, pipe = open_pipeline(pipelines(name)), loaded(pipelines(name))
    subnet, scheduler = mixed(opened, granularity), pipe.scheduler
    plain = pictures(pipe)
    with apply(pipe, subnet) as applied:
        for _ in range(2):
            found = pictures(pipe, applied.inference_steps)
            assert np.abs(found - reference(opened, subnet)).max() <= 1e-6
    assert np.abs(plain - found).max() > 1e-4
    assert pipe.scheduler is scheduler
    assert own_forwards(getattr(pipe, opened.family.component)) == []
    assert np.array_equal(pictures(pipe), plain)


@pytest.mark.parametrize(
    "name",
    ["three-levels", *(pytest.param(n, marks=pytest.mark.slow) for n in ("shapes-dit", "sd3"))],
)
def test_streams_are_split_until_it_is_removed(pipelines: Callable[[str], Path], name: str) -> None:
    opened = open_asked(pipelines(name), scheduler=None, split_streams=True)
    pipe = loaded(pipelines(name))
    denoiser, plain = getattr(pipe, opened.family.component), pictures(pipe)
    cls = type(denoiser)
    whole = full(opened, Options(steps=STEPS, guidance=GUIDANCE))
    subnet = Halves(1, 2, Action.DELTA).of(whole)
    assert subnet is not None
    calls: list[int] = []
    handle = denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    with apply(pipe, subnet) as applied:
        calls.clear()
        found = pictures(pipe, applied.inference_steps)
        assert len(calls) == 2 * STEPS
        with pytest.raises(SearchError, match="is for guidance, and this call is without"):
            pictures(pipe, guidance=1.0)
    handle.remove()
    assert np.abs(found - reference(opened, subnet)).max() <= 1e-6
    assert np.abs(found - plain).max() > 1e-4
    assert type(denoiser) is cls
    assert np.array_equal(pictures(pipe), plain)


def test_a_fitted_sampler_is_put_in_place(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    opened, pipe = open_pipeline(pipelines("three-levels")), loaded(pipelines("three-levels"))
    part = mixed(opened)
    table = opened.sampler(part.binding.grid)
    rows = replace(table, inputs=table.inputs * 0.98, final=table.final * 1.02)
    subnet = replace(part, fitted=FittedSampler(tuple(t + 0.5 for t in part.timesteps), rows))
    subnet.save(tmp_path / "subnet.json")
    applied = apply(pipe, tmp_path / "subnet.json")
    assert np.abs(pictures(pipe) - reference(opened, subnet)).max() <= 1e-5
    with pytest.raises(
        SearchError, match=r"guidance 7.5 was requested, .* fitted for 3; give that scale"
    ):
        pictures(pipe, guidance=7.5)
    with pytest.raises(ValueError, match="give num_inference_steps=6"):
        pictures(pipe, steps=7)
    applied.remove()
    applied.remove()
    assert np.abs(pictures(pipe) - reference(opened, None)).max() <= 1e-6


def test_the_scheduler_that_the_subnet_is_bound_to_is_put_in_place(
    pipelines: Callable[[str], Path],
) -> None:
    opened, pipe = open_pipeline(pipelines("three-levels")), loaded(pipelines("three-levels"))
    opened.use_scheduler("EulerDiscreteScheduler")
    subnet = mixed(opened)
    with apply(pipe, subnet):
        assert np.abs(pictures(pipe) - reference(opened, subnet)).max() <= 1e-6


def test_a_run_that_was_broken_off_leaves_nothing_behind(
    pipelines: Callable[[str], Path],
) -> None:
    def stop(pipe: Any, step: int, *_: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return {}

    opened, pipe = open_pipeline(pipelines("three-levels")), loaded(pipelines("three-levels"))
    subnet = mixed(opened)
    with apply(pipe, subnet):
        with pytest.raises(KeyboardInterrupt):
            pictures(pipe, callback_on_step_end=stop)
        assert np.abs(pictures(pipe) - reference(opened, subnet)).max() <= 1e-6


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("compiled", ["blocks", "denoiser"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_blocks_are_compiled_once_and_a_compiled_denoiser_stays_right(
    pipelines: Callable[[str], Path], compiled: str, backend: str
) -> None:
    def compiler(function: Any) -> Any:
        return torch.compile(function, backend=backend)

    opened, pipe = open_pipeline(pipelines("shapes-dit")), loaded(pipelines("shapes-dit"))
    subnet = mixed(opened)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    if compiled == "denoiser":
        pipe.transformer = compiler(pipe.transformer)
        pictures(pipe, steps=2)
    for _ in range(2):
        with apply(pipe, subnet, compiler=compiler if compiled == "blocks" else None):
            for _ in range(2):
                assert np.abs(pictures(pipe) - reference(opened, subnet)).max() <= 1e-5
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == (2 if compiled == "blocks" else 1)
    assert len(set(graphs)) == 1
    assert np.abs(pictures(pipe) - reference(opened, None)).max() <= 1e-5


def test_weights_in_another_type_than_their_files_are_accepted(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    pipe = loaded(pipelines("three-levels"), dtype=torch.bfloat16)
    with apply(pipe, mixed(opened)):
        assert np.isfinite(pictures(pipe)).all()
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] += 1
    with pytest.raises(SearchError, match="load the weights it was made for, without a LoRA"):
        apply(pipe, mixed(opened))


def test_what_a_subnet_is_not_for_is_refused(pipelines: Callable[[str], Path]) -> None:
    opened, pipe = open_pipeline(pipelines("three-levels")), loaded(pipelines("three-levels"))
    subnet = mixed(opened)
    with pytest.raises(SearchError, match=r"for a UNet2DConditionModel, .* has a DiTTransformer2D"):
        apply(loaded(pipelines("shapes-dit")), subnet)
    with pytest.raises(SearchError, match=r"with the fingerprint \w{16}\.\.\., but this one has"):
        apply(loaded(pipelines("two-levels")), subnet)
    later = full(opened, Options(steps=STEPS, start_step=2))
    with pytest.raises(SearchError, match=r"begins at step 2 .*; apply one that goes from noise"):
        apply(pipe, later)
    with apply(pipe, subnet):
        with pytest.raises(SearchError, match="already applied to this pipeline; remove it before"):
            apply(pipe, subnet)
        with pytest.raises(
            SearchError, match=r"runs 5 steps, .* for 6, at .* num_inference_steps=6"
        ):
            pictures(pipe, steps=5)
    assert own_forwards(pipe.unet) == []


def test_only_the_two_names_are_public() -> None:
    assert module.__all__ == ["Applied", "apply"]
