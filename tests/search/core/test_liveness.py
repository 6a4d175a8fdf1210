"""The unrolled loop: what is computed, what is gone, what it costs."""

from __future__ import annotations

import dataclasses

import pytest

from search.core.liveness import Unrolled, Value, unroll
from search.core.topology import PREDICTION, Computation, Target, TargetKind, Topology, port_of
from tests.toys import branch, chain, hourglass, spelled, streams, subnet

A, B, C = map(port_of, range(3))
"""The ports of the three blocks of `chain`."""


def computed(found: Unrolled, step: int) -> set[str]:
    return spelled(found.topology, found.computed[step])


def read(found: Unrolled, step: int) -> set[str]:
    """What the call of a step reads from the cache."""
    return spelled(found.topology, found.cache_reads[step])


def emitted(found: Unrolled, step: int, block: int) -> Value:
    """What a block of `chain` emits at a step."""
    return found.values[found.effective[step][port_of(block)]]


def residual_read(found: Unrolled, step: int, block: int) -> Value:
    """The residual that a DELTA adds."""
    return found.values[emitted(found, step, block).reads[-1]]


def reading(topology: Topology, ports: set[int], *, varies: bool = False) -> Topology:
    """The same with a head that reads other ports, or the timestep too."""
    head = {PREDICTION: Computation(frozenset(ports), varies)}
    return dataclasses.replace(topology, computations=topology.computations | head)


def test_everything_runs_in_a_full_subnet() -> None:
    found = unroll(subnet(chain(), "RRR", "RRR"))
    assert computed(found, 0) == computed(found, 1) == {"a", "b", "c", "prediction"}
    assert found.macs == (301, 301)
    assert found.params == 31


def test_what_only_a_reused_block_read_is_gone() -> None:
    found = unroll(subnet(chain(), "RRR", "RcR"))
    assert computed(found, 1) == {"c", "prediction"}
    assert found.macs == (301, 101)


def test_a_step_that_repeats_a_prediction_has_no_call() -> None:
    found = unroll(subnet(chain(), "RRR", "RRc", "RRc", "RRR"))
    assert found.calls == (0, 3)
    assert found.macs == (301, 0, 0, 301)


def test_a_head_that_reads_the_timestep_is_still_called() -> None:
    found = unroll(subnet(reading(chain(), {2}, varies=True), "RRR", "RRc"))
    assert found.calls == (0, 1)
    assert found.macs == (301, 1)


def test_a_chain_of_reuses_returns_the_value_of_the_last_run() -> None:
    found = unroll(subnet(chain(), "RRR", "RcR", "RcR", "RRR"))
    assert found.effective[2][B] == found.effective[0][B]
    assert found.effective[3][B] != found.effective[0][B]


def test_a_block_read_at_a_later_step_runs_even_if_its_own_step_ignores_it() -> None:
    found = unroll(subnet(chain(), "RRR", "RRc", "RcR"))
    assert computed(found, 1) == {"a", "b"}, "b of step 1 is read at step 2"
    assert computed(found, 2) == {"c", "prediction"}


def test_a_block_that_neither_moves_nor_reads_anything_new_is_its_earlier_value() -> None:
    found = unroll(subnet(chain(varying=(True, False, True)), "RRR", "cRR"))
    assert computed(found, 1) == {"c", "prediction"}, "b runs on the same a: nothing to compute"


def test_only_the_tensors_that_are_read_are_computed() -> None:
    found = unroll(subnet(hourglass(), "RRR", "RcR"))
    assert computed(found, 1) == {"down", "up", "prediction"}, "down:1 fed only the deep block"
    assert found.macs == (576, 20 + 40 + 5 + 1)


def test_params_count_what_any_step_reads() -> None:
    assert unroll(subnet(hourglass(), "RRR", "RcR")).params == 59


def test_a_delta_computes_all_but_its_block() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR"))
    assert computed(found, 0) == {"a", "b", "c", "prediction", "b residual"}
    assert computed(found, 1) == {"a", "b DELTA", "c", "prediction"}, "a is read afresh"
    assert found.macs == (301, 201)


def test_the_base_of_a_delta_costs_what_leads_to_it() -> None:
    assert unroll(subnet(chain(), "RRR", "dRR")).macs == (301, 7 + 200 + 1)
    assert unroll(subnet(hourglass(), "RRR", "RRd")).macs == (576, 576 - 30)


def test_a_delta_adds_the_residual_of_the_most_recent_run() -> None:
    found = unroll(subnet(chain(), "RRR", "RRR", "RdR"))
    assert ["b residual" in computed(found, step) for step in range(3)] == [False, True, False]


def test_a_delta_does_not_change_the_residual() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR", "RdR"))
    first, second = (emitted(found, step, 1) for step in (1, 2))
    assert residual_read(found, 1, 1) == residual_read(found, 2, 1)
    assert residual_read(found, 1, 1).step == 0
    assert first.reads[:-1] != second.reads[:-1], "the input is fresh each time"


def test_a_reuse_after_a_delta_emits_what_the_delta_did() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR", "RcR"))
    assert found.effective[2][B] == found.effective[1][B] != found.effective[0][B]
    assert computed(found, 2) == {"c", "prediction"}


def test_a_delta_after_a_reuse_of_a_delta_still_adds_the_residual_of_the_run() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR", "RcR", "RdR"))
    assert spelled(found.topology, [residual_read(found, 3, 1).target]) == {"b residual"}
    assert residual_read(found, 3, 1).step == 0


def test_a_delta_whose_base_has_not_changed_is_the_output_of_the_run() -> None:
    found = unroll(subnet(chain(varying=(True, False, True)), "RRR", "cdR"))
    assert found.effective[1][B] == found.effective[0][B]
    assert computed(found, 1) == {"c", "prediction"}
    moved = unroll(subnet(chain(varying=(True, False, True)), "RRR", "RdR"))
    assert moved.effective[1][B] != moved.effective[0][B]


def test_a_block_runs_for_a_later_delta_even_if_its_own_step_ignores_it() -> None:
    found = unroll(subnet(chain(), "RRR", "RRc", "RdR"))
    assert computed(found, 1) == {"a", "b", "b residual"}
    assert found.macs == (301, 200, 201)


def test_a_delta_that_nobody_reads_is_gone() -> None:
    found = unroll(subnet(chain(), "RRR", "RdR", "RdR", "RRc"))
    assert found.macs == (301, 201, 201, 0)
    assert unroll(subnet(chain(), "RRR", "RdR", "RRR")).params == 31
    assert unroll(subnet(chain(), "RRR", "Rdc")).computed[1] == frozenset()


def test_a_skip_computes_all_but_its_block() -> None:
    found = unroll(subnet(chain(), "RRR", "RsR"))
    assert computed(found, 0) == {"a", "b", "c", "prediction"}, "no residual"
    assert computed(found, 1) == {"a", "b SKIP", "c", "prediction"}
    assert emitted(found, 1, 1).reads == (found.effective[1][A],)
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
    assert found.effective[2][B] == found.effective[1][B] != found.effective[0][B]
    assert computed(found, 2) == {"c", "prediction"}
    first = unroll(subnet(chain(), "RsR", "RcR"))
    assert first.effective[1][B] == first.effective[0][B]


def test_a_skip_does_not_change_the_residual() -> None:
    found = unroll(subnet(chain(), "RRR", "RsR", "RdR"))
    assert spelled(found.topology, [residual_read(found, 2, 1).target]) == {"b residual"}
    assert residual_read(found, 2, 1).step == 0


def test_a_skip_and_a_delta_of_one_base_are_not_one_value() -> None:
    found = unroll(subnet(chain(varying=(True, False, False)), "RRR", "cRs", "RRd", "cRs"))
    assert found.effective[1][C] != found.effective[2][C] != found.effective[3][C]


def test_an_old_value_comes_back_when_its_block_is_skipped_again() -> None:
    found = unroll(subnet(chain((True, True, False)), "RRR", "csR", "cRR", "csR"))
    b = [row[B] for row in found.effective]
    assert b[3] == b[1] != b[2]
    assert found.effective[3][PREDICTION] == found.effective[1][PREDICTION], "the same"
    assert found.calls == (0, 1, 2)


def test_a_skip_that_nobody_reads_is_gone() -> None:
    assert unroll(subnet(chain(), "RRR", "Rsc")).computed[1] == frozenset()


def test_deltas_in_a_row_cache_one_residual_of_the_step_they_ran_at() -> None:
    found = unroll(subnet(chain(), "RRR", "RRR", "ddd", "ddd"))
    assert computed(found, 0) == {"a", "b", "c", "prediction"}
    assert computed(found, 1) == {"a", "b", "c", "prediction", "a..c residual"}
    for step in (2, 3):
        assert computed(found, step) == {"a..c DELTA", "prediction"}
        assert read(found, step) == {"a..c residual"}
        assert residual_read(found, step, 2).step == 1
    assert found.macs == (301, 301, 7 + 1, 7 + 1), "the base of a and the head"


def test_the_residual_of_a_span_is_its_last_output_minus_its_first_input() -> None:
    found = unroll(subnet(chain(), "RRR", "Rdd"))
    first = found.effective[0]
    assert residual_read(found, 1, 2).reads == (first[A], first[C])
    assert emitted(found, 1, 2).reads[:-1] == (found.effective[1][A],), "onto the input of now"


@pytest.mark.parametrize(
    ("rows", "cached"),
    [
        # c ran again, on what a and b made of their residuals.
        (("RRR", "ddR", "ddd"), {"a..b residual": 0, "c residual": 1}),
        # b and c ran again, on the first a.
        (("RRR", "cRR", "ddd"), {"a residual": 0, "b..c residual": 1}),
        # a and c ran again, b did not.
        (("RRR", "RcR", "ddd"), {"a residual": 1, "b residual": 0, "c residual": 1}),
        (("RRR", "RsR", "ddd"), {"a residual": 1, "b residual": 0, "c residual": 1}),
        # b does something else in between.
        (("RRR", "dcd"), {"b": 0, "c residual": 0}),
        (("RRR", "dsd"), {"a residual": 0, "c residual": 0}),
        (("RRR", "dRd"), {"a residual": 0, "c residual": 0}),
        # b emits again what it made of a residual.
        (("RRR", "ddR", "dcd"), {"b": 1, "c residual": 1}),
    ],
)
def test_a_broken_span_is_not_one(rows: tuple[str, ...], cached: dict[str, int]) -> None:
    topology = chain()
    if rows[-1] == "dcd":
        # Otherwise c gets what it got when it ran, and is its earlier value.
        topology = dataclasses.replace(
            topology,
            computations=topology.computations
            | {Target(TargetKind.BASE, 2): Computation(frozenset({1}), varies=True)},
        )
    found = unroll(subnet(topology, *rows))
    reads = found.cache_reads[-1]
    assert {
        name: found.values[number].step
        for target, number in reads.items()
        for name in spelled(topology, [target])
    } == cached


def test_deltas_after_a_block_that_has_not_changed_are_what_they_were() -> None:
    assert unroll(subnet(chain(), "RRR", "cdd")).calls == (0,)


def test_what_is_read_within_a_span_is_given_as_well() -> None:
    found = unroll(subnet(reading(chain(), {1, 2}), "RRR", "Rdd"))
    assert computed(found, 1) == {"a", "b DELTA", "b..c DELTA", "prediction"}
    assert read(found, 1) == {"b residual", "b..c residual"}


def test_what_a_later_step_reuses_of_a_span_is_given_as_well() -> None:
    found = unroll(subnet(chain(), "RRR", "ddd", "RcR"))
    assert computed(found, 1) == {"a..b DELTA", "a..c DELTA", "prediction"}
    assert found.cache_reads[2] == {B: found.effective[1][B]}


def test_each_stream_has_spans_of_its_own() -> None:
    found = unroll(subnet(streams(), "RRR", "Rdd"))
    assert computed(found, 1) == {"a", "a:1", "b..c DELTA", "b..c:1 DELTA", "prediction"}
    assert read(found, 1) == {"b..c residual", "b..c:1 residual"}
    assert found.macs == (308, 7 + 100 + 1)


def test_a_stream_that_has_not_changed_is_what_it_was() -> None:
    found = unroll(subnet(streams(), "RRR", "ddd"))
    assert computed(found, 1) == {"a..c DELTA", "prediction"}
    assert read(found, 1) == {"a..c residual", "c:1"}, "the prompt is the same as before"


def test_a_branch_that_is_skipped_reads_nothing_and_is_not_cached() -> None:
    found = unroll(subnet(branch(), "RRR", "RsR", "RcR", "RsR"))
    assert computed(found, 1) == {"stem", "attn SKIP", "out", "prediction"}
    assert [read(found, step) for step in range(4)] == [set()] * 4
    assert found.macs == (301, 201, 201, 201)


def test_a_branch_that_is_skipped_again_has_not_changed() -> None:
    assert unroll(subnet(branch(), "RRR", "RsR", "csR")).calls == (0, 1)


def test_zeros_are_not_made_where_nobody_reads_them() -> None:
    found = unroll(subnet(branch(), "RRR", "csc", "RcR"))
    assert found.calls == (0, 2)


def test_the_residual_of_a_branch_is_its_last_output() -> None:
    found = unroll(subnet(branch(), "RRR", "RsR", "RdR"))
    assert read(found, 2) == {"attn"}
    assert found.cache_reads[2] == {port_of(1): found.effective[0][port_of(1)]}


def test_a_forecast_reads_the_outputs_of_the_last_two_runs() -> None:
    found = unroll(subnet(chain(), "RRR", "RRR", "RcR", "RdR", "RfR"))
    assert computed(found, 4) == {"b FORECAST", "c", "prediction"}, "nobody reads a"
    last, previous = (Target(kind, 1) for kind in (TargetKind.LAST, TargetKind.PREVIOUS))
    rows = found.effective
    assert found.cache_reads[4] == {last: rows[1][B], previous: rows[0][B]}
    assert emitted(found, 4, 1).weights == (("last", 2.0), ("previous", -1.0))
    assert found.macs[4] == 101


def test_the_same_forecast_is_made_once() -> None:
    found = unroll(subnet(chain(), "RRR", "RRR", "RRf", "RRf"))
    assert found.calls == (0, 1, 2)
    moved = dataclasses.replace(
        subnet(chain(), "RRR", "RRR", "RRf", "RRf"),
        coefficients=((2, 2, (2.0, -1.0)), (3, 2, (3.0, -2.0))),
    )
    assert unroll(moved).calls == (0, 1, 2, 3)
