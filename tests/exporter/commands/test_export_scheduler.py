"""`stepcarve export-scheduler`: what it writes and says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers.schedulers import AysSchedules

from search.core.sampler import FittedSampler
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.whole import full
from search.model.fitted_scheduler import FittedScheduler
from search.model.opening import open_pipeline
from tests.command_line import Places, ok, require_refused, stepcarve


@pytest.fixture(scope="module")
def subnets(
    pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A SubNet of five steps with the scheduler's rows, and one with rows of its own."""
    folder = tmp_path_factory.mktemp("subnets")
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    plain = full(opened, Options(steps=5, guidance=3.0))
    table = opened.sampler(plain.binding.grid)
    fitted: SubNet = replace(plain, fitted=FittedSampler(plain.timesteps, table))
    places = {"plain": folder / "plain.json", "fitted": folder / "fitted.json"}
    plain.save(places["plain"])
    fitted.save(places["fitted"])
    return places


def test_a_fitted_sampler_needs_no_pipeline(subnets: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "sampler"
    printed = ok("export-scheduler", subnets["fitted"], "-o", out)
    assert f'pipe.scheduler = FittedScheduler.from_pretrained("{out}")' in printed
    assert "pipe(..., num_inference_steps=5, guidance_scale=3)" in printed
    scheduler = FittedScheduler.from_pretrained(out)
    assert (scheduler.num_inference_steps, scheduler.config.guidance_scale) == (5, 3.0)
    assert scheduler.config.latent_shape == [4, 12, 12]
    assert sorted(each.name for each in out.iterdir()) == [
        "fitted_scheduler.py",
        "scheduler_config.json",
    ]


def test_the_schedulers_own_rows_need_the_pipeline(
    subnets: dict[str, Path], pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out, pipeline = tmp_path / "sampler", pipelines("three-levels")
    refused = stepcarve("export-scheduler", subnets["plain"], "-o", out)
    assert refused.exit_code == 2
    assert "the coefficients of DDIMScheduler depend on its pipeline" in refused.stderr
    assert not out.exists()
    printed = ok(
        "export-scheduler", subnets["plain"], "-o", out, "--pipeline", pipeline, "--json"
    )  # fmt: skip
    found = json.loads(printed)
    assert (found["calls"], found["guidance"], found["not_included"]) == (5, None, None)
    assert FittedScheduler.from_pretrained(out).config.latent_shape is None


def test_the_times_of_a_fitted_sampler_are_exported_on_request_only(
    subnets: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "times.json"
    line = ("export-scheduler", subnets["fitted"], "-o", out, "--format", "timesteps")
    refused = stepcarve(*line)
    assert refused.exit_code == 2
    assert "the format 'timesteps' cannot hold; use --format diffusers, or --grid-only" in (
        refused.stderr
    )
    assert "not included: the fitted coefficients" in ok(*line, "--grid-only")
    assert json.loads(out.read_text()) == [801, 601, 401, 201, 1]


@pytest.mark.parametrize("form", ["timesteps", "sigmas"])
def test_a_list_goes_in_and_out_again(
    pipelines: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    numbers = AysSchedules[f"StableDiffusion{form.capitalize()}"]
    source, subnet, out = (tmp_path / name for name in ("ays.json", "subnet.json", "out.json"))
    source.write_text(json.dumps(numbers))
    pipeline = pipelines("sdxl")
    ok("import", source, "-o", subnet, "--format", form, "--pipeline", pipeline, "--steps", 30)
    printed = ok("export-scheduler", subnet, "-o", out, "--format", form)
    assert "10 calls instead of 30" in printed
    assert "not included: how EulerDiscreteScheduler steps" in printed
    assert json.loads(out.read_text()) == pytest.approx(numbers, rel=1e-4)


@pytest.mark.parametrize(
    "line",
    [
        "export-scheduler {subnet} -o {out} --pipeline {sd} --grid-only: --grid-only is for lists of",
        "export-scheduler {subnet} -o {out} --pipeline {dit}: the SubNet was made for denoiser",
        "export-scheduler {subnet} -o {out} --format json: Invalid value for '--format'",
        "export-scheduler {no} -o {out}: cannot read the SubNet",
    ],
)
def test_bad_values_are_one_sentence(bad_places: Places, line: str) -> None:
    command, message = line.split(": ", 1)
    require_refused(command, message, bad_places)
