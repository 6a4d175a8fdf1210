"""A SubNet at another size than it was made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.core.errors import SearchError
from search.core.sampler import FittedSampler
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.whole import resized
from tests.mixes import random_mix

OWN, OTHER = (16, 16), (32, 16)


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    """FLUX shifts its timesteps by the size of the picture."""
    return open_pipeline(pipelines("flux-dev"), weights=False)


@pytest.fixture(scope="module")
def subnet(opened: Pipeline) -> SubNet:
    whole = search(opened, "full", Options(steps=4, guidance=3.5, height=OWN[0], width=OWN[1]))
    return random_mix(whole, seed=1)


def test_the_table_stays_and_what_depends_on_the_size_does_not(
    opened: Pipeline, subnet: SubNet
) -> None:
    there = resized(opened, subnet, OTHER)
    assert (there.actions, there.method) == (subnet.actions, subnet.method)
    assert opened.size(there.binding.noise_shape) == OTHER
    assert there.timesteps[1:] != subnet.timesteps[1:]
    assert there.topology.macs > subnet.topology.macs
    whole = search(opened, "full", Options(steps=4, guidance=3.5, height=OTHER[0], width=OTHER[1]))
    assert there.binding == whole.binding


def test_at_its_own_size_it_is_itself(opened: Pipeline, subnet: SubNet) -> None:
    assert resized(opened, subnet, OWN) is subnet


def test_a_fitted_sampler_stays_at_its_size(opened: Pipeline, subnet: SubNet) -> None:
    table = opened.sampler(subnet.binding.grid, OWN)
    fitted = replace(subnet, fitted=FittedSampler(subnet.timesteps, table))
    assert resized(opened, fitted, OWN) is fitted
    with pytest.raises(SearchError, match="fitted for pictures of 16 x 16, not of 32 x 16; leave"):
        resized(opened, fitted, OTHER)


def test_a_size_that_the_pipeline_would_round_is_refused(opened: Pipeline, subnet: SubNet) -> None:
    with pytest.raises(SearchError, match="not of 33 x 16; leave the size out, or choose"):
        resized(opened, subnet, (33, 16))


def test_other_blocks_are_refused(opened: Pipeline, subnet: SubNet) -> None:
    names = ("renamed", *subnet.topology.blocks[1:])
    other = replace(subnet, topology=replace(subnet.topology, blocks=names))
    with pytest.raises(SearchError, match="at 32 x 16 the denoiser has other blocks"):
        resized(opened, other, OTHER)
