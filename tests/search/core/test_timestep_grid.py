"""What is asked of a sampler, and what a SubNet's binding makes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.timestep_grid import TimestepGrid
from search.methods.options import Options, grid_of, require_one_grid
from tests.toys import chain, subnet


@pytest.mark.parametrize(
    ("grid", "steps", "begins"),
    [
        (TimestepGrid(5), [0, 1, 2, 3, 4], "begins from noise"),
        (TimestepGrid(5, end_step=3), [0, 1, 2], "begins from noise"),
        (
            TimestepGrid(5, first_step=3),
            [3, 4],
            "begins at step 3 from the latents that another run",
        ),
        (
            TimestepGrid(5, first_step=3, end_step=4, adds_noise=True),
            [3],
            "begins at step 3 from clean",
        ),
        (TimestepGrid(5, adds_noise=True), [0, 1, 2, 3, 4], "begins at step 0 from clean latents"),
    ],
)
def test_a_grid_has_part_of_the_steps(grid: TimestepGrid, steps: list[int], begins: str) -> None:
    assert list(range(5))[grid.part(5)] == steps
    assert grid.begins.startswith(begins)
    assert grid.takes_latents == (begins != "begins from noise")
    assert grid.is_whole == (grid == TimestepGrid(5))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"first_step": 5}, "steps 5 to 5 were requested, but the sampler has 5"),
        ({"first_step": 2, "end_step": 2}, "steps 2 to 2 were requested"),
        ({"end_step": 6}, "steps 0 to 6 were requested, but the sampler has 5"),
        ({"first_step": -1}, "the first step is -1; give 0 or more"),
        (
            {"custom_timesteps": (9.0,), "custom_sigmas": (9.0,)},
            "both timesteps and sigmas were given",
        ),
    ],
)
def test_a_grid_without_steps_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        TimestepGrid(5, **asked).part(5)


def test_a_binding_with_another_grid_is_refused_and_both_are_named() -> None:
    table = subnet(chain(), "RRR", "RcR")
    grid = TimestepGrid(2, custom_timesteps=(999.0, 9.0), first_step=1, adds_noise=True)
    other = dataclasses.replace(table.binding, grid=grid)
    with pytest.raises(SearchError, match=r"made for custom timesteps \(\), but here it is \(999"):
        table.binding.require(other)
    other.require(dataclasses.replace(other))


def test_a_grid_is_read_back(tmp_path: Path) -> None:
    table = subnet(chain(), "RRR", "RcR")
    grid = TimestepGrid(2, custom_sigmas=(9.0, 0.5), first_step=1, end_step=4)
    table = dataclasses.replace(table, binding=dataclasses.replace(table.binding, grid=grid))
    table.save(tmp_path / "subnet.json")
    assert SubNet.load(tmp_path / "subnet.json") == table


def test_a_file_of_schema_3_goes_all_the_way() -> None:
    table = subnet(chain(), "RRR", "RcR")
    data = json.loads(json.dumps(table.to_json())) | {"schema": 3}
    del data["binding"]["grid"]
    data["binding"]["inference_steps"] = 2
    assert SubNet.from_json(data, "old.json") == table


def test_options_make_a_grid() -> None:
    assert Options(steps=7, start_step=2, end_step=5, add_noise=True).grid(50) == TimestepGrid(
        7, first_step=2, end_step=5, adds_noise=True
    )
    assert Options(sigmas=(3.0, 0.5)).grid(50) == TimestepGrid(2, custom_sigmas=(3.0, 0.5))
    with pytest.raises(SearchError, match="--reference-steps is for another sampler"):
        Options(start_step=2, reference_steps=9)


def test_a_grid_is_a_list_of_falling_numbers() -> None:
    assert grid_of("999, 499.5,0") == (999.0, 499.5, 0.0)
    for text in ("", "9,x", "9,9", "1,2", "inf,2", "9,-1"):
        with pytest.raises(SearchError, match=f"{text!r} is not a list of falling numbers"):
            grid_of(text)
    with pytest.raises(
        SearchError, match="--steps and --sigmas each set the sampler's timestep grid"
    ):
        require_one_grid(["steps", "sigmas", "seed"])
