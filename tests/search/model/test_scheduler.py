"""Choosing a pipeline's scheduler, and what is said of those that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.timestep_grid import TimestepGrid
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_for, open_pipeline
from search.model.scheduler import GridSettings, read_sampler
from search.model.scheduler_names import SHORT_NAMES

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def plain(pipelines: Callable[[str], Path], tmp_path: Path) -> Path:
    """A pipeline whose scheduler, not a DDIM, says nothing of clipping."""
    path = shutil.copytree(pipelines("two-levels"), tmp_path / "pipeline")
    file = path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    config.pop("clip_sample", None)
    file.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", sorted(SHORT_NAMES))
def test_every_short_name_is_a_scheduler_with_these_settings(name: str) -> None:
    choice = SHORT_NAMES[name]
    if choice.cls == "DPMSolverSDEScheduler":
        return  # needs a package of its own
    made = getattr(diffusers, choice.cls)(**choice.options)
    assert choice.options.items() <= dict(made.config).items()


def test_a_short_name_brings_its_settings(plain: Path) -> None:
    opened = open_pipeline(plain, weights=False)
    opened.use_scheduler("DPM++-2M-Karras")
    assert type(opened.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert opened.pipe.scheduler.config.use_karras_sigmas is True
    opened.use_scheduler("euler")
    assert opened.pipe.scheduler.config.get("use_karras_sigmas") is not True


def test_clipping_is_switched_off_by_what_the_refusal_says(plain: Path, tmp_path: Path) -> None:
    opened = open_pipeline(plain, weights=False)
    opened.use_scheduler("ddim")
    with pytest.raises(SearchError, match="--scheduler-option clip_sample=false"):
        opened.sampler(TimestepGrid(4))
    opened.use_scheduler("ddim", {"clip_sample": False})
    config = {k: v for k, v in opened.pipe.scheduler.config.items() if not k.startswith("_")}
    own = diffusers.DDIMScheduler.from_config(config)
    expected = read_sampler(own, GridSettings(TimestepGrid(4), eta=0.0))
    np.testing.assert_array_equal(opened.sampler(TimestepGrid(4)).final, expected.final)

    subnet = full(opened, Options(steps=4, guidance=3))
    subnet.save(tmp_path / "subnet.json")
    again = open_for(SubNet.load(tmp_path / "subnet.json"), plain, weights=False)
    assert again.pipe.scheduler.config.clip_sample is False


def test_changed_settings_do_not_hide_another_pipeline(plain: Path) -> None:
    opened = open_pipeline(plain, weights=False)
    opened.use_scheduler("ddim", {"clip_sample": False})
    subnet = full(opened, Options(steps=3, guidance=3))
    other = replace(subnet, binding=replace(subnet.binding, scheduler_config={"beta_end": 0.5}))
    with pytest.raises(SearchError, match="scheduler config"):
        open_for(other, plain, weights=False)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddim", {"clip": False}, r"DDIMScheduler has no setting 'clip'; choose one of beta_end, "),
        ("ddim", {"clip_sample": "no"}, r"'clip_sample' of DDIMScheduler is 'no'; give true or"),
        (None, {"solver_type": "x"}, r"PNDMScheduler has no setting 'solver_type'"),
        ("dpmpp-2m", {"solver_type": "x"}, r"'DPMSolverMultistepScheduler' cannot be used here"),
        ("flow-euler", {}, r"no scheduler 'FlowMatchEuler.*or in short ddim, "),
    ],
)
def test_settings_that_cannot_be_are_refused(
    plain: Path, name: str | None, options: dict[str, Any], message: str
) -> None:
    opened = open_pipeline(plain, weights=False)
    with pytest.raises(SearchError, match=message):
        opened.use_scheduler(name, options)


@pytest.mark.parametrize(
    ("name", "config", "setting"),
    [
        ("UniPCMultistepScheduler", {**NOISE, "predict_x0": False}, "predict_x0"),
        ("LCMScheduler", {**NOISE, "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_a_scheduler_that_divides_by_zero_is_told_as_that(
    name: str, config: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SearchError, match=rf"{name} makes values that are not finite .*{setting}"):
        read_sampler(getattr(diffusers, name)(**config), GridSettings(TimestepGrid(6)))


@pytest.mark.parametrize("raised", [NotImplementedError, IndexError, ZeroDivisionError, TypeError])
@pytest.mark.parametrize("where", ["set_timesteps", "step"])
def test_a_scheduler_that_raises_is_told_with_its_name(
    monkeypatch: pytest.MonkeyPatch, where: str, raised: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised("out of order")

    monkeypatch.setattr(diffusers.EulerDiscreteScheduler, where, fail)
    with pytest.raises(SearchError, match="EulerDiscreteScheduler does not run with 6 steps if"):
        read_sampler(diffusers.EulerDiscreteScheduler(**NOISE), GridSettings(TimestepGrid(6)))


def test_a_scheduler_is_read_as_it_is_and_not_as_its_configuration_says() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_shift(5.0)
    changed, expected = (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        GridSettings(TimestepGrid(4)),
    )
    found = read_sampler(scheduler, expected).final
    assert not np.allclose(found, read_sampler(type(scheduler)(shift=1.0), expected).final)
    assert found.shape == read_sampler(changed, expected).final.shape


def test_a_scheduler_that_is_given_its_memory_is_read_with_it() -> None:
    scheduler = diffusers.CogVideoXDPMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    table = read_sampler(scheduler, GridSettings(TimestepGrid(4)))
    scheduler.set_timesteps(4)
    draw = torch.Generator().manual_seed(5)
    latents, made, predictions = torch.randn(1, 8, generator=draw), None, []
    for step, timestep in enumerate(scheduler.timesteps):
        predictions.append(torch.randn(1, 8, generator=torch.Generator().manual_seed(step)))
        before = scheduler.timesteps[step - 1] if step else None
        latents, made = scheduler.step(
            predictions[-1], made, timestep, before, latents, generator=draw, return_dict=False
        )
    again = torch.Generator().manual_seed(5)
    noises = [torch.randn(1, 8, generator=again) for _ in range(table.known)]
    found = sum(float(c) * v for c, v in zip(table.final, (*noises, *predictions), strict=True))
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)
