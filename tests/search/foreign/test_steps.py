"""Step lists, forecasts and grids of other projects, against what these projects do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, TaylorSeerCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerState
from diffusers.schedulers import AysSchedules
from torch import Tensor

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.foreign.importers import read_foreign
from search.foreign.step_file import read_budcache
from search.methods.options import Options
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample

GUIDANCE = 3.0
PROMPT = "a small green circle"
OPENVINO = {"cache_interval": 3, "disable_cache_before_step": 6, "disable_cache_after_step": -2}
"""OpenVINO GenAI's defaults, as its samples take them on the command line."""
MEANCACHE = {
    "calc_dict": [0, 2, 4, 7, 14, 21, 28, 35, 42, 49],
    "edge_source": ["v_diff_mean", "v_diff_mean_jvp1_s3"]
    + ["v_diff_mean"] * 6
    + ["v_diff_mean_jvp1_s4"],
}
"""Ten calls of Qwen-Image-2512 in MeanCache's script."""
GITS = [14.61464119, 11.54541874, 7.49001646, 3.07277966, 0.02916753]
"""Four steps at the coefficient .8 in ComfyUI's GITSScheduler."""
OSS = [0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001]
"""FLUX in ComfyUI's OptimalStepsScheduler."""


def imported(
    opened: Pipeline, folder: Path, form: str, content: object, steps: int | None = None
) -> SubNet:
    path = folder / "table"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    foreign = read_foreign(path, form)
    count = foreign.steps if steps is None else steps
    return foreign.subnet(opened, Options(steps=count, guidance=GUIDANCE))


def pictures(pipe: Any, steps: int, **options: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    grid = options or {"num_inference_steps": steps}
    return pipe(
        PROMPT,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **grid,
    ).images


def reference(opened: Pipeline, subnet: SubNet | None, steps: int) -> Any:
    ask = Request((PROMPT,), steps, GUIDANCE)
    return sample(opened, ask, subnet, generator=torch.Generator().manual_seed(5)).images


def flow_euler(
    subnet: SubNet,
    sigmas: Sequence[float],
    predict: Callable[[int, list[Tensor], list[Tensor]], Any],
) -> None:
    """Rows of a flow model, against its steps: `predict` gives None where the denoiser is called."""
    assert subnet.fitted is not None
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(64, generator=random, dtype=torch.float64)
    latents, velocities, made = [noise], [], []
    for step, (now, after) in enumerate(itertools.pairwise(sigmas)):
        velocity = predict(step, latents, velocities)
        if velocity is None:
            velocity = torch.randn(64, generator=random, dtype=torch.float64)
            call, table = len(made), subnet.fitted.table
            row = torch.from_numpy(table.inputs[call])
            known = torch.stack([noise, *made, *[noise * 0] * (len(row) - 1 - call)])
            assert torch.allclose(row @ known, latents[-1], atol=1e-5)
            made.append(velocity)
        velocities.append(velocity)
        latents.append(latents[-1] + (after - now) * velocity)
    final = torch.from_numpy(subnet.fitted.table.final)
    assert torch.allclose(final @ torch.stack([noise, *made]), latents[-1], atol=1e-5)


def sigmas_of(opened: Pipeline, steps: int) -> list[float]:
    scheduler = opened.pipe.scheduler
    scheduler.set_timesteps(steps)
    found: list[float] = scheduler.sigmas.double().tolist()
    return found


def test_openvinos_taylorseer_is_rows_over_the_steps_it_computes(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("sd3"), weights=False)
    subnet = imported(opened, tmp_path, "openvino-taylorseer", OPENVINO, steps=50)
    assert (subnet.steps, subnet.full_calls) == (22, 50)
    state = TaylorSeerState(torch.float64, max_order=1)

    def predict(step: int, _: list[Tensor], velocities: list[Tensor]) -> Tensor | None:
        if state.current_step >= 0 and computed(step - 1):
            state.update((velocities[-1],))
        state.current_step = step
        return None if computed(step) else state.predict()[0]

    def computed(step: int) -> bool:
        return step < 6 or step >= 48 or (step - 8) % 3 == 0

    flow_euler(subnet, sigmas_of(opened, 50), predict)


def test_meancaches_list_is_rows_that_extrapolate_as_its_script_does(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("sd3"), weights=False)
    subnet = imported(opened, tmp_path, "meancache", MEANCACHE)
    assert (subnet.steps, subnet.full_calls) == (10, 50)
    sigmas, calls = sigmas_of(opened, 50), MEANCACHE["calc_dict"]

    def predict(step: int, latents: list[Tensor], velocities: list[Tensor]) -> Tensor | None:
        if step in calls:
            return None
        order = {2: 3, 42: 4}.get(max(call for call in calls if call < step), 1)
        first = max(step - order, 0)
        mean = (latents[step] - latents[first]) / (sigmas[step] - sigmas[first])
        slope = (velocities[first] - mean) / (sigmas[step] - sigmas[first])
        return velocities[-1] - slope * (sigmas[step + 1] - sigmas[step])

    flow_euler(subnet, sigmas, predict)


@pytest.mark.parametrize("lite", [False, True])
def test_diffusers_taylorseer_makes_the_same_pictures(
    pipelines: Callable[[str], Path], tmp_path: Path, lite: bool
) -> None:
    name = "flux-dev"
    settings = {
        "cache_interval": 3,
        "disable_cache_before_step": 2,
        "disable_cache_after_step": 9,
        "use_lite_mode": lite,
    }
    opened = open_pipeline(pipelines(name))
    subnet = imported(opened, tmp_path, "diffusers-taylorseer", settings, steps=10)
    assert subnet.steps == (5 if lite else 10)
    pipe = DiffusionPipeline.from_pretrained(pipelines(name))
    config = TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, **settings)
    pipe.transformer.enable_cache(config)
    found = reference(opened, subnet, 10)
    assert np.abs(found - pictures(pipe, 10)).max() <= 2e-5
    assert np.abs(found - reference(opened, None, 10)).max() > 1e-4


def residual_held(transformer: Any, computed: Sequence[int]) -> None:
    """Every other step adds what all blocks together added at the last computed one, as BudCache does."""
    blocks = [
        *transformer.transformer_blocks,
        *getattr(transformer, "single_transformer_blocks", []),
    ]
    state: dict[str, Any] = {"step": -1}

    def count(*_: Any) -> None:
        state["step"] += 1

    def gate(number: int, block: Any) -> Callable[..., Any]:
        forward = block.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            assert not args
            entered = kwargs["hidden_states"]
            if state["step"] not in computed:
                moved = entered + state["residual"] if number == 0 else entered
                return kwargs["encoder_hidden_states"], moved
            if number == 0:
                state["first"] = entered
            output = forward(**kwargs)
            if number == len(blocks) - 1:
                state["residual"] = output[1] - state["first"]
            return output

        return run

    transformer.register_forward_pre_hook(count)
    for number, block in enumerate(blocks):
        block.forward = gate(number, block)


@pytest.mark.parametrize("name", ["flux-dev", "sd3"])
@pytest.mark.parametrize("form", ["lemica", "budcache"])
def test_step_lists_hold_the_residual_of_all_blocks(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str, form: str
) -> None:
    steps, computed = 8, [0, 1, 3, 7]
    opened = open_pipeline(pipelines(name))
    if form == "lemica":
        subnet = imported(opened, tmp_path, form, computed)
    else:
        left_out = [step for step in range(steps) if step not in computed]
        torch.save({"cache_step": left_out, "best_loss": 0.1}, tmp_path / "flux_8nfe4.pt")
        foreign = read_foreign(tmp_path / "flux_8nfe4.pt", form)
        subnet = foreign.subnet(opened, Options(steps=steps, guidance=GUIDANCE))
    assert subnet.method == f"{form} 4 of 8 steps"
    pipe = DiffusionPipeline.from_pretrained(pipelines(name))
    residual_held(pipe.transformer, computed)
    found = reference(opened, subnet, steps)
    assert np.abs(found - pictures(pipe, steps)).max() <= 1e-5
    assert np.abs(found - reference(opened, None, steps)).max() > 1e-4


def test_ays_lists_are_grids_of_the_pipelines_scheduler(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    timesteps, sigmas = (
        AysSchedules[f"StableDiffusionXL{each}"] for each in ("Timesteps", "Sigmas")
    )
    opened = open_pipeline(pipelines("sdxl"))
    for form, numbers in (("timesteps", timesteps), ("sigmas", sigmas)):
        subnet = imported(opened, tmp_path, form, numbers, steps=30)
        assert (subnet.steps, subnet.full_calls) == (10, 30)
        pipe = DiffusionPipeline.from_pretrained(pipelines("sdxl"))
        expected = pictures(pipe, 10, **{form: numbers})
        assert np.abs(reference(opened, subnet, 10) - expected).max() <= 1e-5


def test_gits_and_oss_lists_end_with_the_end_of_the_sampler(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    sd = open_pipeline(pipelines("three-levels"), weights=False)
    sd.use_scheduler("EulerDiscreteScheduler")
    text = ", ".join(f"{each}" for each in GITS)
    gits = imported(sd, tmp_path, "sigmas", text)
    sd.pipe.scheduler.set_timesteps(sigmas=[*GITS[:-1], 0])
    assert gits.timesteps == pytest.approx(sd.pipe.scheduler.timesteps.tolist())
    flux = open_pipeline(pipelines("flux-dev"), weights=False)
    oss = imported(flux, tmp_path, "sigmas", OSS)
    assert oss.timesteps == pytest.approx([1000 * sigma for sigma in OSS[:-1]], rel=1e-5)
    table = flux.sampler(oss.binding.grid, flux.size(oss.binding.noise_shape))
    assert table.final[1:] == pytest.approx(np.diff([*OSS[:-1], 0]), abs=1e-6)


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("sigmas", [1, 2], "has the sigmas 1, 2; give two or more, each below the one before"),
        ("sigmas", {"a": 1}, "is not a list of sigmas; give numbers as JSON, or separated"),
        ("timesteps", "999 5 nan", "is not a list of timesteps"),
        (
            "lemica",
            [1, 0],
            r"has \[1, 0\] as its steps; give their numbers from 0, in rising order",
        ),
        ("lemica", [1, 7], "does not compute step 0, when there is nothing to reuse"),
        ("lemica", [0, 9], "names step 9, but the sampler has 8 steps, counted from 0"),
        ("meancache", {"calc_dict": [0, 2]}, "has 0 entries in edge_source, none of them unknown"),
        (
            "meancache",
            {"calc_dict": [0, 7], "edge_source": ["chain"]},
            r"steps \[1, 2, 3, 4, 5, 6\] are reused by no rule",
        ),
        ("openvino-taylorseer", {"cache_interval": 1}, "has cache_interval 1; give a whole number"),
        ("openvino-taylorseer", OPENVINO, "none of 8 steps is forecast; give more --steps"),
        ("diffusers-taylorseer", {"max_order": 2}, "has max_order 2 .* forecasts with order 1"),
        (
            "diffusers-taylorseer",
            {"cache_identifiers": ["^x$"]},
            r"no layer of this .* is called \^x",
        ),
    ],
)
def test_what_no_subnet_does_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path, form: str, content: object, message: str
) -> None:
    opened = open_pipeline(pipelines("sd3"), weights=False)
    with pytest.raises(SearchError, match=message):
        imported(opened, tmp_path, form, content, steps=8)


def test_lists_for_another_kind_of_pipeline_are_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    with pytest.raises(
        SearchError, match=r"lists are for FlowMatchEulerDiscreteScheduler, not for DDIM"
    ):
        imported(opened, tmp_path, "meancache", MEANCACHE)
    with pytest.raises(SearchError, match="DDIMScheduler takes no custom timesteps"):
        imported(opened, tmp_path, "timesteps", [999, 5])
    with pytest.raises(
        SearchError, match=r"one cached residual is added over .* do not emit what can"
    ):
        imported(opened, tmp_path, "lemica", [0, 3])


def test_a_step_list_that_runs_code_is_not_read(tmp_path: Path) -> None:
    torch.save({"cache_step": Path}, tmp_path / "bad.pt")
    with pytest.raises(SearchError, match="holds more than plain numbers, or is damaged"):
        read_budcache(tmp_path / "bad.pt")
    torch.save({"cache_step": [1], "weights": 2}, tmp_path / "bad.pt")
    with pytest.raises(SearchError, match="expected cache_step and best_loss"):
        read_budcache(tmp_path / "bad.pt")


PUBLISHED = "10100101011101010101010101010101001001001001001011"
"""`smoothcache_schedules/diffuser_schedule.json` of Roblox/SmoothCache, for attn1."""


def test_smoothcaches_published_schedule_reuses_the_attentions(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    subnet = imported(opened, tmp_path, "smoothcache", {"attn1": [int(d) for d in PUBLISHED]})
    attentions = [n for n, name in enumerate(subnet.topology.blocks) if name.endswith(".attn1")]
    for digit, row in zip(PUBLISHED, subnet.actions, strict=True):
        reused = [number for number, action in enumerate(row) if action is Action.REUSE]
        assert reused == ([] if digit == "1" else attentions)


def test_smoothcache_caches_the_outputs_of_layers_as_its_helper_does(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    schedule = {"attn": [1, 0, 0, 1, 0, 1], "mlp": [1, 1, 0, 0, 0, 1], "mlp-1": [1, 0, 1, 0, 1, 0]}
    opened = open_pipeline(pipelines("shapes-dit"))
    subnet = imported(opened, tmp_path, "smoothcache", schedule)
    pipe = DiffusionPipeline.from_pretrained(pipelines("shapes-dit"))

    def cached(forward: Callable[..., Tensor], row: list[int]) -> Callable[..., Tensor]:
        calls: list[Tensor] = []

        def run(*args: Any, **kwargs: Any) -> Tensor:
            computes = row[len(calls)]
            calls.append(forward(*args, **kwargs) if computes else calls[-1])
            return calls[-1]

        return run

    for number, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.forward = cached(block.attn1.forward, schedule["attn"])
        row = schedule.get(f"mlp-{number}", schedule["mlp"])
        block.ff.forward = cached(block.ff.forward, row)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        class_labels=[0],
        num_inference_steps=6,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    ask = Request(("0",), 6, GUIDANCE)
    found = sample(opened, ask, subnet, generator=torch.Generator().manual_seed(5)).images
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"attn": [0, 1]}, r"has \[0, 1\] for 'attn'; give one 1 .* and 1 for the first"),
        ({"attn": [1, 2]}, r"has \[1, 2\] for 'attn'"),
        ({"attn": [1, 0], "mlp": [1]}, r"has lists of \[1, 2\] steps; give one list per kind"),
        ({"a b": [1]}, "has the key 'a b'; expected a kind of layer"),
        ({"conv": [1, 0]}, r"has \['conv'\], but no layer of this DiTTransformer2DModel"),
    ],
)
def test_schedules_that_no_denoiser_has_are_refused(
    pipelines: Callable[[str], Path], tmp_path: Path, content: object, message: str
) -> None:
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    with pytest.raises(SearchError, match=message):
        imported(opened, tmp_path, "smoothcache", content)
