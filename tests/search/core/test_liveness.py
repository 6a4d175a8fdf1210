"""The unrolled loop: what is computed, what is gone, what it costs."""

from __future__ import annotations

import dataclasses

from search.core.liveness import unroll
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


def test_a_delta_computes_all_but_its_block() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RdR"))
    assert found.computed[0] == {0, 1, 2, 3, topology.residual(1)}
    assert found.computed[1] == {0, 2, 3, topology.sum(1)}, "a is read afresh"
    assert found.macs == (301, 201)


def test_the_base_of_a_delta_costs_what_leads_to_it() -> None:
    assert unroll(subnet(chain(), "RRR", "dRR")).macs == (301, 7 + 200 + 1)
    assert unroll(subnet(hourglass(), "RRR", "RRd")).macs == (576, 576 - 30)


def test_a_delta_adds_the_residual_of_the_most_recent_run() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RRR", "RdR"))
    assert [topology.residual(1) in computed for computed in found.computed] == [False, True, False]


def test_a_delta_does_not_change_the_residual() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RdR", "RdR"))
    first, second = (found.values[found.effective[step][1]] for step in (1, 2))
    assert first.reads[-1] == second.reads[-1] == found.effective[0][topology.residual(1)]
    assert first.reads[:-1] != second.reads[:-1], "the input is fresh each time"


def test_a_reuse_after_a_delta_emits_what_the_delta_did() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR", "RcR"))
    assert found.effective[2][1] == found.effective[1][1] != found.effective[0][1]
    assert found.computed[2] == {2, 3}


def test_a_delta_after_a_reuse_of_a_delta_still_adds_the_residual_of_the_run() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RdR", "RcR", "RdR"))
    assert found.values[found.effective[3][1]].reads[-1] == found.effective[0][topology.residual(1)]


def test_a_delta_whose_base_has_not_changed_is_the_output_of_the_run() -> None:
    found = unroll(subnet(chain(varying=(True, False, True)), "RRR", "cdR"))
    assert found.effective[1][1] == found.effective[0][1]
    assert found.computed[1] == {2, 3}
    moved = unroll(subnet(chain(varying=(True, False, True)), "RRR", "RdR"))
    assert moved.effective[1][1] != moved.effective[0][1]


def test_a_block_runs_for_a_later_delta_even_if_its_own_step_ignores_it() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RRc", "RdR"))
    assert found.computed[1] == {0, 1, topology.residual(1)}
    assert found.macs == (301, 200, 201)


def test_a_delta_that_nobody_reads_is_gone() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR", "RdR", "RRc"))
    assert found.macs == (301, 201, 201, 0)
    assert unroll(subnet(chain(), "RRR", "RdR", "RRR")).params == 31
    assert unroll(subnet(chain(), "RRR", "Rdc")).computed[1] == frozenset()


def test_a_skip_computes_all_but_its_block() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RsR"))
    assert found.computed[0] == {0, 1, 2, 3}, "no residual"
    assert found.computed[1] == {0, 2, 3, topology.sum(1)}
    assert found.values[found.effective[1][1]].reads == (found.effective[1][0],)
    assert found.macs == (301, 201)


def test_a_skip_costs_what_leads_to_its_base() -> None:
    assert unroll(subnet(chain(), "sRR")).macs == (7 + 200 + 1,)
    assert unroll(subnet(hourglass(), "RRs")).macs == (576 - 30,)


def test_a_block_that_is_always_skipped_has_no_weights() -> None:
    assert unroll(subnet(chain(), "RsR", "RsR")).params == 31 - 10
    assert unroll(subnet(hourglass(), "RRs", "RcR", "RRs")).params == 59
    assert unroll(subnet(hourglass(), "RRs", "RRs")).params == 59 - 3, "the shortcut stays"


def test_a_reuse_after_a_skip_emits_what_the_skip_did() -> None:
    found = unroll(subnet(chain(), "RRR", "RsR", "RcR"))
    assert found.effective[2][1] == found.effective[1][1] != found.effective[0][1]
    assert found.computed[2] == {2, 3}
    first = unroll(subnet(chain(), "RsR", "RcR"))
    assert first.effective[1][1] == first.effective[0][1]


def test_a_skip_does_not_change_the_residual() -> None:
    topology = chain()
    found = unroll(subnet(topology, "RRR", "RsR", "RdR"))
    assert found.values[found.effective[2][1]].reads[-1] == found.effective[0][topology.residual(1)]


def test_a_skip_and_a_delta_of_one_base_are_not_one_value() -> None:
    found = unroll(subnet(chain(varying=(True, False, False)), "RRR", "cRs", "RRd", "cRs"))
    assert found.effective[1][2] != found.effective[2][2] != found.effective[3][2]


def test_an_old_value_comes_back_when_its_block_is_skipped_again() -> None:
    found = unroll(subnet(chain((True, True, False)), "RRR", "csR", "cRR", "csR"))
    b = [row[1] for row in found.effective]
    assert b[3] == b[1] != b[2]
    assert found.effective[3][3] == found.effective[1][3], "and so does the prediction"
    assert found.calls == (0, 1, 2)


def test_a_skip_that_nobody_reads_is_gone() -> None:
    assert unroll(subnet(chain(), "RRR", "Rsc")).computed[1] == frozenset()
