"""The unrolled program: signatures, cache slots, calls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search.core.actions import Action
from search.core.program import Program, Signature, plan_program
from search.core.sampler import SamplerTable
from search.core.subnet import SubNet
from search.core.topology import PREDICTION, Computation, port_of
from tests.arithmetic import executed, worked_out
from tests.mixes import random_mix
from tests.toys import branch, chain, hourglass, spelled, streams, subnet

A, B = port_of(0), port_of(1)
"""The first two ports of `chain`."""


TOPOLOGIES = (chain(), chain(varying=(True, False, True)), hourglass(), branch(), streams())


def replay(table: SubNet, program: Program) -> None:
    """Run the calls on numbers: every step must predict what its blocks, done by hand, give."""
    for call in program.calls:
        signature = program.signatures[call.signature]
        assert (tuple(call.reads), tuple(call.writes)) == (signature.reads, signature.writes)
        assert not set(call.reads.values()) & set(call.writes.values())
        assert len(set(call.writes.values())) == len(call.writes)
        for tensor, slot in (call.reads | call.writes).items():
            assert program.slots[slot] == table.topology.shape(tensor)
    assert executed(table, program) == pytest.approx(worked_out(table), rel=1e-9)


def spelled_signature(table: SubNet, signature: Signature) -> tuple[set[str], set[str], set[str]]:
    """What a signature computes, reads and writes, in words."""
    parts = (signature.computes, signature.reads, signature.writes)
    computes, reads, writes = (spelled(table.topology, part) for part in parts)
    return computes, reads, writes


def test_equal_steps_share_a_signature() -> None:
    table = subnet(hourglass(), "RRR", "RcR", "RcR", "RRR", "RcR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 1, 0, 1]
    assert spelled(table.topology, program.signatures[1].reads) == {"deep"}
    assert spelled(table.topology, program.signatures[0].writes) == {"deep"}
    assert program.slots == ((2, 8),)
    replay(table, program)


def test_calls_in_different_spans_share_no_signature() -> None:
    table = subnet(hourglass(), "RRR", "RcR", "RcR", "RRR", "RcR")
    program = plan_program(table, 1)
    apart = program.split(lambda step: int(step >= 2))
    assert [call.signature for call in apart.calls] == [0, 1, 3, 2, 3]
    assert [apart.signatures[c.signature] for c in apart.calls] == [
        program.signatures[c.signature] for c in program.calls
    ]
    assert program.split(lambda _: 0) == program
    replay(table, apart)


def test_calls_that_differ_in_what_they_write_share_a_signature() -> None:
    table = subnet(hourglass(), "RRR", "RcR", "RRR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 0]
    assert spelled(table.topology, program.signatures[0].writes) == {"deep"}
    assert list(program.calls[2].writes.values()) == [0], "the first one's slot is free by then"
    assert program.slots == ((2, 8),)
    replay(table, program)


def test_a_shared_signature_writes_what_any_of_its_calls_must() -> None:
    table = subnet(chain(), "RRR", "RcR", "RRR", "cRR", "RRR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 0, 2, 0]
    assert program.signatures[0].writes == (A, B)
    assert all(call.writes.keys() == {A, B} for call in program.calls[::2])
    replay(table, program)


def test_a_lone_full_step_writes_nothing() -> None:
    program = plan_program(subnet(hourglass(), "RRR", "RRR"), 1)
    assert program.signatures[0].writes == ()
    assert program.slots == ()


def test_calls_with_other_reads_or_other_work_share_nothing() -> None:
    program = plan_program(subnet(chain(), "RRR", "RcR", "ccR", "RdR"), 1)
    assert len(program.signatures) == 3, "the middle two are one: both run c on an earlier b"
    assert [call.signature for call in program.calls] == [0, 1, 1, 2]


def test_a_published_table_needs_two_graphs() -> None:
    """Ten calls of fifty run everything, but for one that reuses the deep block of the first."""
    active = (0, 7, 13, 19, 20, 21, 26, 32, 39, 48)
    rows = ["RRR" if step in active else "ccc" for step in range(50)]
    rows[7] = "RcR"
    table = subnet(hourglass(), *rows)
    program = plan_program(table, 1)
    assert [call.step for call in program.calls] == list(active)
    assert len(program.signatures) == 2
    replay(table, program)


def test_a_write_nobody_reads_leaves_live_slots_alone() -> None:
    """Steps 1 and 3 are one graph; the c of step 3 is read by nobody, while a and b are held."""
    topology = chain()
    head = {PREDICTION: Computation(frozenset({2}), varies=True)}
    moving_head = dataclasses.replace(topology, computations=topology.computations | head)
    rows = ("RRR", "ccR", "ccc", "ccR", "cRR")
    for order in ((0, 1, 2, 3, 4), (0, 3, 1, 2, 4)):
        table = subnet(moving_head, *(rows[i] for i in order))
        program = plan_program(table, 1)
        runs_c = [
            call
            for call in program.calls
            if spelled(topology, program.signatures[call.signature].computes) == {"c", "prediction"}
        ]
        assert len({call.signature for call in runs_c}) == 1
        assert len({slot for call in runs_c for slot in call.writes.values()}) == 1
        assert len(program.slots) == 3, (
            "a, b, and one for the c that is read and the one that is not"
        )
        replay(table, program)


def test_a_residual_is_written_once_and_read_by_each_delta() -> None:
    table = subnet(chain(), "RRR", "RdR", "RdR", "RRR", "RdR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 1, 0, 1]
    assert [spelled_signature(table, signature) for signature in program.signatures] == [
        ({"a", "b", "c", "prediction", "b residual"}, set(), {"b residual"}),
        ({"a", "b DELTA", "c", "prediction"}, {"b residual"}, set()),
    ]
    assert program.slots == ((2, 4),)
    replay(table, program)


def test_a_full_step_whose_residual_nobody_reads_shares_the_graph() -> None:
    table = subnet(hourglass(), "RRR", "RRd", "RRR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 0]
    replay(table, program)


def test_a_skip_reads_no_residual_and_is_another_graph_than_a_delta() -> None:
    table = subnet(chain(), "RRR", "RdR", "RsR", "RsR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 2, 2]
    assert [spelled_signature(table, signature) for signature in program.signatures[1:]] == [
        ({"a", "b DELTA", "c", "prediction"}, {"b residual"}, set()),
        ({"a", "b SKIP", "c", "prediction"}, set(), set()),
    ]
    assert program.bases == {1}
    replay(table, program)


def test_what_a_delta_emits_is_cached_under_the_name_of_the_port() -> None:
    table = subnet(chain(), "RRR", "RdR", "RcR")
    program = plan_program(table, 1)
    assert program.signatures[1].writes == (B,)
    assert program.signatures[2].reads == (B,)
    names = program.to_json(table.topology.name)["calls"]
    assert [list(call["writes"]) for call in names] == [["b:residual"], ["b:0"], []]
    replay(table, program)


def test_random_tables_read_what_they_should() -> None:
    for seed in range(40):
        for topology in TOPOLOGIES:
            table = random_mix(subnet(topology, *["RRR"] * 12), seed)
            replay(table, plan_program(table, 1))


def test_random_tables_with_many_spans_read_what_they_should() -> None:
    shares = {Action.RUN: 0.3, Action.REUSE: 0.1, Action.DELTA: 0.6}
    spans = 0
    for seed in range(40):
        for topology in (chain(), chain(varying=(True, False, True)), streams()):
            table = random_mix(subnet(topology, *["RRR"] * 12), seed, shares)
            program = plan_program(table, 1)
            replay(table, program)
            mixes = {mix for signature in program.signatures for mix in signature.mixes}
            spans += sum(mix.base != mix.port for mix in mixes)
    assert spans > 40


def test_a_span_holds_one_residual() -> None:
    table = subnet(chain(), "RRR", "ddd", "ddd", "RRR", "Rdd")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 1, 0, 2]
    assert [spelled_signature(table, signature)[1:] for signature in program.signatures] == [
        (set(), {"a..c residual", "b..c residual"}),
        ({"a..c residual"}, set()),
        ({"b..c residual"}, set()),
    ]
    assert program.alive == (8, 8, 0, 8, 0)
    assert program.bases == {0, 1}
    assert [*program.to_json(table.topology.name)["calls"][1]["reads"]] == ["a..c:residual"]
    replay(table, program)


def test_forecasts_with_other_coefficients_share_a_graph() -> None:
    table = dataclasses.replace(
        subnet(chain(), "RRR", "RRR", "RfR", "RfR", "RRf"),
        coefficients=((2, 1, (2.0, -1.0)), (3, 1, (3.0, -2.0)), (4, 2, (1.5, -0.5))),
    )
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 0, 1, 1, 2]
    assert spelled_signature(table, program.signatures[1]) == (
        {"b FORECAST", "c", "prediction"},
        {"b last", "b previous"},
        {"c"},
    )
    calls = program.to_json(table.topology.name)["calls"]
    assert [call["coefficients"] for call in calls] == [
        {},
        {},
        {"b:0:coefficients": [2.0, -1.0]},
        {"b:0:coefficients": [3.0, -2.0]},
        {"c:0:coefficients": [1.5, -0.5]},
    ]
    replay(table, program)


def test_a_value_is_not_written_where_another_is_still_read() -> None:
    # Step 1 reads the first b and writes a; a and b have the same shape.
    table = subnet(chain(), "RRR", "RcR", "cRR", "RRR")
    program = plan_program(table, 1)
    replay(table, program)
    assert len(program.slots) == 2


def test_slots_are_used_again() -> None:
    table = subnet(chain(), "RRR", "RRc", *["RcR", "RRc"] * 5, "RRR")
    program = plan_program(table, 1)
    replay(table, program)
    assert len(program.slots) == 1


def test_a_batch_makes_larger_slots() -> None:
    assert plan_program(subnet(hourglass(), "RRR", "RcR"), 3).slots == ((6, 8),)


def test_a_step_without_a_call_vanishes_into_the_sampler() -> None:
    program = plan_program(subnet(chain(), "RRR", "RRc", "RRc", "RRR"), 1)
    assert [call.step for call in program.calls] == [0, 3]
    assert [call.prediction for call in program.calls] == [0, 1]
    table = SamplerTable(np.tril(np.ones((4, 5)), 0), np.ones(5))
    assert program.reduce(table).inputs.shape == (2, 3)
    np.testing.assert_array_equal(program.reduce(table).final, [1, 3, 1])


def test_a_call_may_only_fill_a_cache() -> None:
    # Step 1 repeats the prediction, but its b is what step 2 reads.
    table = subnet(chain(), "RRR", "RRc", "RcR")
    program = plan_program(table, 1)
    assert [call.prediction for call in program.calls] == [0, None, 1]
    assert [s.predicts for s in program.signatures] == [True, False, True]
    replay(table, program)
