"""A SubNet in figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.core.actions import Action
from search.core.sampler import FittedSampler, SamplerTable
from search.core.subnet import Granularity, SubNet
from search.core.summary import call_times, cells, summarise
from search.core.table import with_actions
from search.core.topology import port_of
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from tests.toys import chain, hourglass, subnet


def test_each_cell_says_what_becomes_of_its_block() -> None:
    rows = cells(subnet(chain(), "RRR", "RsR", "RdR", "RcR", "RRc", "RRR", "RRf"))
    run, gone = Action.RUN, None
    assert rows == [
        [run] * 3,
        [run, Action.SKIP, run],
        [run, Action.DELTA, run],
        [gone, Action.REUSE, run],
        [gone] * 3,
        [run] * 3,
        [gone, gone, Action.FORECAST],
    ]


def test_a_delta_that_nobody_reads_is_gone() -> None:
    assert cells(subnet(chain(), "RRR", "RdR", "RRR", "Rdc"))[3] == [None] * 3


def test_a_cache_is_alive_until_it_is_read_for_the_last_time() -> None:
    found = summarise(subnet(chain(), "RRR", "RRR", "RcR", "RcR", "RRR"), batch=2, dtype="float16")
    one = found["cache_bytes_per_step"][1]
    assert found["cache_bytes_per_step"] == [0, one, one, 0, 0]
    assert one == found["cache_bytes"] > 0


def test_a_sampler_of_its_own_is_told_by_the_times_of_its_calls() -> None:
    table = subnet(chain(), "RRR", "ccc", "RRR")
    rows = SamplerTable(inputs=np.eye(3, 4), final=np.ones(4))
    fitted = FittedSampler((900.0, 512.5, 17.0), rows)
    found = summarise(dataclasses.replace(table, fitted=fitted))
    assert found["call_timesteps"] == [900.0, 17.0]
    assert call_times(found) == "fitted sampler, calls at timesteps 900, 17"


@pytest.mark.parametrize(
    ("rows", "signatures", "slots"),
    [
        (("RRR", "RRR"), 1, 0),
        (("RRR", "RdR"), 2, 1),
        (("RRR", "RdR", "RRR"), 2, 1),
        # Both full calls write a and b, though nobody reads the first a and the second b.
        (("RRR", "RcR", "RRR", "cRR"), 3, 2),
    ],
)
def test_signatures_and_cache_bytes_are_those_of_the_program(
    rows: tuple[str, ...], signatures: int, slots: int
) -> None:
    found = summarise(subnet(chain(), *rows))
    assert found["signatures"] == signatures
    assert found["cache_bytes"] == slots * 4 * (2 * 4)


def test_the_published_table_needs_two_graphs(pipelines: Callable[[str], Path]) -> None:
    """Ten calls of fifty; the second reuses `down_blocks.3` from the first."""
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    whole = full(opened, Options(steps=50, granularity=Granularity.STAGE))
    deep = whole.topology.blocks.index("down_blocks.3")
    active = (0, 7, 13, 19, 20, 21, 26, 32, 39, 48)
    table = with_actions(
        whole,
        lambda t, b: Action.RUN if t in active and (t, b) != (7, deep) else Action.REUSE,
        method="published",
    )
    found = summarise(table)
    assert found["signature_per_call"] == [0, 1] + [0] * 8
    assert found["signatures"] == 2
    ports = [p for p in whole.topology.ports if p.block == deep]
    assert found["cache_bytes"] == 4 * sum(math.prod(p.shape) for p in ports)


def test_deltas_are_counted_and_cost_their_base_alone() -> None:
    found = summarise(subnet(hourglass(), "RRR", "RRd", "RcR"))
    assert (found["count"]["REUSE"], found["count"]["DELTA"]) == (1, 1)
    assert found["macs_per_step"] == [576, 546, 66]


def test_skips_are_counted_and_what_is_always_skipped_has_no_weights() -> None:
    found = summarise(subnet(hourglass(), "RRs", "RRs"))
    assert (found["count"]["SKIP"], found["macs_per_step"]) == (2, [546, 546])
    assert found["params"] - found["params_kept"] == 3


def test_every_action_is_counted_and_coefficients_are_told() -> None:
    found = summarise(subnet(chain(), "RRR", "RRR", "cdf"))
    assert found["count"] == {"RUN": 6, "REUSE": 1, "DELTA": 1, "SKIP": 0, "FORECAST": 1}
    assert found["coefficients"] == [[2, 2, [2.0, -1.0]]]


def with_attention() -> SubNet:
    """A chain of blocks; half of the cost of block `a` is attention products."""
    topology = chain()
    segments = [
        dataclasses.replace(segment, attention=50 if segment.targets == {port_of(0)} else 0)
        for segment in topology.segments
    ]
    return subnet(dataclasses.replace(topology, segments=tuple(segments)), "RRR", "cRR")


def test_attention_products_are_counted_apart() -> None:
    found = summarise(with_attention())
    assert (found["macs_full"], found["macs_kept"]) == (602, 502)
    assert found["macs_full_without_attention"] == 502
    assert found["macs_kept_without_attention"] == 452
    assert found["keep_without_attention"] == 452 / 502


def test_the_count_survives_json() -> None:
    original = with_attention()
    assert summarise(SubNet.from_json(original.to_json(), "x")) == summarise(original)


def test_a_file_that_does_not_say_gives_no_count() -> None:
    data = with_attention().to_json()
    for segment in data["topology"]["segments"]:
        segment[-1] = None
    found = summarise(SubNet.from_json(data, "x"))
    assert found["keep"] == 502 / 602
    assert found["keep_without_attention"] is None
