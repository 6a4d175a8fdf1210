"""The runner, against diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet

from engines.base import make_engine
from engines.errors import EngineError
from engines.runner import Runner
from exporter.bundle import Bundle
from search.core.actions import Action
from search.core.sampler import FittedSampler
from search.core.subnet import Granularity, SubNet
from search.core.table import with_actions
from search.methods.options import Options
from search.methods.registry import search
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample
from tests.hand_gating import gated_by_hand
from tests.mixes import random_mix

MakeBundle = Callable[[str, SubNet], Bundle]
TOLERANCE = 1e-3
PROMPTS = {"shapes-dit": "red circle", "learned-variance": "7"}
PROMPT = "a small red circle left on a grey field"


def relative(found: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.linalg.norm(found - expected.numpy()) / expected.norm())


def noise_for(bundle: Bundle) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(bundle.latent_shape).astype(np.float32)


def by_diffusers(
    opened: Pipeline, subnet: SubNet, noise: np.ndarray, prompt: str, guidance: float | None = None
) -> torch.Tensor:
    """Final latents of diffusers' pipeline with every block computed and reused ones replaced."""
    opened.use_scheduler(subnet.binding.scheduler)
    ask = Request(
        (prompt,) * len(noise),
        subnet.binding.inference_steps,
        subnet.guidance if guidance is None else guidance,
        latents=torch.from_numpy(noise),
    )
    with gated_by_hand(opened.denoiser, subnet, opened.family):
        return sample(opened, ask).latents[-1]


def each_pipeline(*quick: tuple[str, str]) -> list[ParameterSet]:
    """All pipelines at all granularities; those that are not among `quick` are slow."""
    names = ["shapes-sd", "shapes-dit", "three-levels", "two-levels", "learned-variance"]
    return [
        pytest.param(name, each, marks=[] if (name, each) in quick else [pytest.mark.slow])
        for name in names
        for each in Granularity
    ]


@pytest.mark.parametrize(
    ("name", "granularity"),
    each_pipeline(
        ("shapes-dit", "layer"),
        ("learned-variance", "branch"),
    ),
)
def test_random_subnets_equal_diffusers_gated_by_hand(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle, name: str, granularity: Granularity
) -> None:
    opened = open_pipeline(pipelines(name))
    options = Options(steps=8, keep=0.4, granularity=granularity, seed=11)
    subnet = search(opened, "random", options)
    bundle = make_bundle(name, subnet)
    noise, prompt = noise_for(bundle), PROMPTS.get(name, PROMPT)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(prompt, latents=noise)
    expected = by_diffusers(opened, subnet, noise, prompt)
    assert relative(found.latents, expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "granularity"),
    each_pipeline(("shapes-dit", "branch"), ("three-levels", "stage")),
)
def test_random_mixes_of_all_actions_equal_diffusers_gated_by_hand(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle, name: str, granularity: Granularity
) -> None:
    opened = open_pipeline(pipelines(name))
    whole = search(opened, "full", Options(steps=8, granularity=granularity))
    subnet = random_mix(whole, seed=5)
    bundle = make_bundle(name, subnet)
    noise, prompt = noise_for(bundle), PROMPTS.get(name, PROMPT)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(prompt, latents=noise)
    expected = by_diffusers(opened, subnet, noise, prompt)
    assert relative(found.latents, expected) <= TOLERANCE
    kept = {name.rpartition(":")[2] for call in bundle.calls for name in call.reads}
    assert kept & {"residual", "last"}, "an action mixes something cached"


def test_a_write_that_nobody_reads_leaves_the_caches_alone(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    """Block 2 of step 0 is held until step 4 while calls that share a graph write one of equal shape.

    Steps 1 and 3 run blocks 6 on; only step 2 reads what block 7 emits, and only that of step 1.
    """
    opened = open_pipeline(pipelines("shapes-dit"))
    whole = search(opened, "full", Options(steps=6, granularity=Granularity.STAGE))
    reused = {1: range(6), 2: range(8), 3: range(6), 4: range(3)}
    subnet = with_actions(
        whole,
        lambda t, b: Action.REUSE if b in reused.get(t, ()) else Action.RUN,
        method="by hand",
    )
    bundle = make_bundle("shapes-dit", subnet)
    graphs = [call.graph for call in bundle.calls]
    assert graphs[1] == graphs[3]
    writes = [set(call.writes.values()) for call in bundle.calls]
    held = bundle.calls[4].reads.values()
    assert writes[3], "it writes though nobody reads"
    assert not writes[3] & set(held)
    noise = noise_for(bundle)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run("red circle", latents=noise)
    expected = by_diffusers(opened, subnet, noise, "red circle")
    assert relative(found.latents, expected) <= TOLERANCE


@pytest.mark.slow
def test_full_equals_diffusers_picture_for_picture(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    """Straight through diffusers' public call, seed included; nothing of ours in between."""
    path = pipelines("shapes-sd")
    opened = open_pipeline(path)
    bundle = make_bundle("shapes-sd", search(opened, "full", Options(steps=50)))
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(PROMPT, seed=5, negative="blue")
    expected = opened.pipe(
        PROMPT,
        negative_prompt="blue",
        num_inference_steps=50,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    assert np.abs(found.images / 255 - expected).max() <= 1.5 / 255


@pytest.mark.slow
def test_deepcache_equals_the_package(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    from DeepCache import DeepCacheSDHelper

    opened = open_pipeline(pipelines("shapes-sd"))
    bundle = make_bundle("shapes-sd", search(opened, "deepcache", Options(steps=50)))
    noise = noise_for(bundle)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(PROMPT, latents=noise)
    helper = DeepCacheSDHelper(pipe=opened.pipe)
    helper.set_params(cache_interval=5, cache_branch_id=0)
    helper.enable()
    try:
        ask = Request((PROMPT,), 50, 7.5, latents=torch.from_numpy(noise))
        expected = sample(opened, ask)
    finally:
        helper.disable()
    assert relative(found.latents, expected.latents[-1]) <= TOLERANCE


@pytest.mark.parametrize(
    "scheduler",
    [
        "PNDMScheduler",
        "DPMSolverMultistepScheduler",
        *(
            pytest.param(f"{name}Scheduler", marks=pytest.mark.slow)
            for name in (
                "EulerDiscrete",
                "UniPCMultistep",
                "HeunDiscrete",
                "LMSDiscrete",
                "DEISMultistep",
            )
        ),
    ],
)
def test_any_affine_sampler_equals_diffusers(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle, scheduler: str
) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    opened.use_scheduler(scheduler)
    whole = search(opened, "full", Options(steps=10, granularity=Granularity.STAGE))
    subnet = with_actions(
        whole, lambda t, b: Action.REUSE if t % 3 and 1 <= b <= 3 else Action.RUN, method="by hand"
    )
    bundle = make_bundle("three-levels", subnet)
    noise = noise_for(bundle)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(PROMPT, latents=noise)
    assert relative(found.latents, by_diffusers(opened, subnet, noise, PROMPT)) <= TOLERANCE


def test_timesteps_between_whole_numbers_equal_diffusers(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    """A fitted sampler's timesteps have rows of their own in the prologue."""
    opened = open_pipeline(pipelines("learned-variance"))
    whole = search(opened, "full", Options(steps=4))
    table = opened.sampler(whole.binding.grid)
    timesteps = tuple(each + 0.37 for each in whole.binding.timesteps)
    subnet = replace(whole, fitted=FittedSampler(timesteps=timesteps, table=table))
    bundle = make_bundle("learned-variance", subnet)
    assert bundle.timesteps == timesteps
    noise = noise_for(bundle)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run("7", latents=noise)
    ask = Request(("7",), 4, subnet.guidance, latents=torch.from_numpy(noise))
    assert relative(found.latents, sample(opened, ask, subnet).latents[-1]) <= TOLERANCE


@pytest.mark.slow
def test_a_bundle_without_guidance_equals_diffusers(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    subnet = search(opened, "random", Options(steps=10, keep=0.5, guidance=1.0))
    bundle = make_bundle("three-levels", subnet)
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    noise = noise_for(bundle)
    found = runner.run(PROMPT, latents=noise)
    expected = by_diffusers(opened, subnet, noise, PROMPT, guidance=1.0)
    assert relative(found.latents, expected) <= TOLERANCE
    with pytest.raises(EngineError, match="was exported without guidance"):
        runner.run(PROMPT, guidance=3.0)


@pytest.mark.slow
def test_several_images_at_once_equal_diffusers(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    from exporter.exporting import export

    for name in ("three-levels", "learned-variance"):
        opened = open_pipeline(pipelines(name))
        options = Options(steps=6, keep=0.5, granularity=Granularity.LAYER)
        subnet = search(opened, "random", options)
        bundle = export(pipelines(name), subnet, tmp_path / name, batches=(3,))
        noise, prompt = noise_for(bundle), PROMPTS.get(name, PROMPT)
        assert noise.shape[0] == 3
        found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(prompt, latents=noise)
        assert relative(found.latents, by_diffusers(opened, subnet, noise, prompt)) <= TOLERANCE
        assert len(found.images) == 3


@pytest.mark.slow
def test_a_runner_runs_again_and_forgets_the_last_picture(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    bundle = make_bundle("three-levels", search(opened, "random", Options(steps=8, keep=0.5)))
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    first = runner.run(PROMPT, seed=1)
    other = runner.run("a large blue cross", seed=2, guidance=3.0)
    again = runner.run(PROMPT, seed=1)
    np.testing.assert_array_equal(first.latents, again.latents)
    assert np.abs(first.latents - other.latents).max() > 0.1


def test_the_end_of_a_long_prompt_is_told_as_it_is_cut_off(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    bundle = make_bundle("three-levels", search(opened, "full", Options(steps=2)))
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    told: list[str] = []
    monkeypatch.setattr(
        "engines.texts.logger.warning", lambda text, *words: told.append(text % words)
    )
    runner.run(PROMPT)
    assert not told
    runner.run(PROMPT + " and red" * 40 + " blue")
    [warning] = told
    assert warning.startswith("the prompt is longer than the ")
    assert warning.endswith("red and red blue' is left out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"latents": np.zeros((1, 4, 3, 3), np.float32)},
            r"the latents have the shape \[1, 4, 3, 3\], but",
        ),
        ({"latents": np.full((1, 4, 12, 12), np.nan, np.float32)}, "are not all finite"),
        (
            {"guidance": 1.0},
            "guidance 1.0 switches guidance off, but the bundle was exported with it",
        ),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    pipelines: Callable[[str], Path],
    make_bundle: MakeBundle,
    arguments: dict[str, object],
    message: str,
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    bundle = make_bundle("three-levels", search(opened, "full", Options(steps=2)))
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    with pytest.raises(EngineError, match=message):
        runner.run(PROMPT, **arguments)


def test_a_prologue_with_rows_for_other_timesteps_is_refused(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    bundle = make_bundle("three-levels", search(opened, "full", Options(steps=2)))
    first, second = bundle.calls
    again = replace(bundle, calls=(first, replace(second, timestep=first.timestep)))
    with pytest.raises(EngineError, match=r"gives 'timestep/.*' as \[2, .*but the calls have 1"):
        Runner(again, make_engine("onnxruntime", "cpu"))


def test_an_unknown_engine_and_a_missing_device_are_refused() -> None:
    with pytest.raises(EngineError, match="unknown engine 'magic'; choose one of onnxruntime"):
        make_engine("magic", "cpu")
    with pytest.raises(EngineError, match="onnxruntime runs on cpu or cuda, not on 'tpu'"):
        make_engine("onnxruntime", "tpu")


def test_cuda_is_proven_or_refused() -> None:
    """Where the provider works the engine says cuda; where it does not, there is no engine."""
    try:
        engine = make_engine("onnxruntime", "cuda")
    except EngineError as refusal:
        told = str(refusal)
    else:
        told = f"runs on {engine.device}"
    assert "use --device cpu" in told or told == "runs on cuda"
