"""The unrolled loop: what is computed, what is gone, what it costs."""

from __future__ import annotations

import dataclasses

from search.liveness import unroll
from tests.toys import chain, hourglass, subnet


def test_everything_runs_in_a_full_subnet() -> None:
    found = unroll(subnet(chain(), "RRR", "RRR"))
    assert found.computed == (frozenset({0, 1, 2, 3}),) * 2
    assert found.macs == (301, 301)
    assert found.params == 31


def test_what_only_a_reused_block_read_is_gone() -> None:
    found = unroll(subnet(chain(), "RRR", "RcR"))
    assert found.computed[1] == {2, 3}
    assert found.macs == (301, 101)


def test_a_step_that_repeats_a_prediction_has_no_call() -> None:
    found = unroll(subnet(chain(), "RRR", "RRc", "RRc", "RRR"))
    assert found.calls == (0, 3)
    assert found.macs == (301, 0, 0, 301)


def test_a_head_that_reads_the_timestep_is_still_called() -> None:
    topology = chain()
    varies = tuple(varies or i == topology.output for i, varies in enumerate(topology.varies))
    reads_time = dataclasses.replace(topology, varies=varies)
    found = unroll(subnet(reads_time, "RRR", "RRc"))
    assert found.calls == (0, 1)
    assert found.macs == (301, 1)


def test_a_chain_of_reuses_returns_the_value_of_the_last_run() -> None:
    found = unroll(subnet(chain(), "RRR", "RcR", "RcR", "RRR"))
    assert found.effective[2][1] == found.effective[0][1]
    assert found.effective[3][1] != found.effective[0][1]


def test_a_block_read_at_a_later_step_runs_even_if_its_own_step_ignores_it() -> None:
    found = unroll(subnet(chain(), "RRR", "RRc", "RcR"))
    assert found.computed[1] == {0, 1}, "b of step 1 is read at step 2"
    assert found.computed[2] == {2, 3}


def test_a_block_that_neither_moves_nor_reads_anything_new_is_its_earlier_value() -> None:
    found = unroll(subnet(chain(varying=(True, False, True)), "RRR", "cRR"))
    assert found.computed[1] == {2, 3}, "b runs on the same a: nothing to compute"


def test_only_the_tensors_that_are_read_are_computed() -> None:
    found = unroll(subnet(hourglass(), "RRR", "RcR"))
    assert found.computed[1] == {0, 3, 4}, "down's second tensor fed only the deep block"
    assert found.macs == (576, 20 + 40 + 5 + 1)


def test_params_count_what_any_step_reads() -> None:
    assert unroll(subnet(hourglass(), "RRR", "RcR")).params == 59
