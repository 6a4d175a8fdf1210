"""The unrolled program: signatures, cache slots, calls."""

from __future__ import annotations

import dataclasses

import numpy as np

from search.core.program import Program, plan_program
from search.core.sampler import SamplerTable
from search.core.subnet import SubNet
from tests.mixes import random_mix
from tests.toys import chain, hourglass, subnet


def replay(table: SubNet, program: Program) -> None:
    """Walk the program with numbered values in its slots; every read must find the right value."""
    from search.core.liveness import unroll

    unrolled = unroll(table)
    held: dict[int, int] = {}
    for call in program.calls:
        signature = program.signatures[call.signature]
        assert (tuple(call.reads), tuple(call.writes)) == (signature.reads, signature.writes)
        for tensor, slot in call.reads.items():
            assert held[slot] == unrolled.effective[call.step][tensor]
            assert program.slots[slot] == table.topology.shape(tensor)
        assert not set(call.reads.values()) & set(call.writes.values())
        assert len(set(call.writes.values())) == len(call.writes)
        for tensor, slot in call.writes.items():
            held[slot] = unrolled.effective[call.step][tensor]
            assert program.slots[slot] == table.topology.shape(tensor)


def test_equal_steps_share_a_signature() -> None:
    table = subnet(hourglass(), "RRR", "RcR", "RcR", "RRR", "RcR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 1, 0, 1]
    assert program.signatures[1].reads == (2,)
    assert program.signatures[0].writes == (2,)
    assert program.slots == ((2, 8),)
    replay(table, program)


def test_calls_that_differ_in_what_they_write_share_a_signature() -> None:
    table = subnet(hourglass(), "RRR", "RcR", "RRR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 0]
    assert program.signatures[0].writes == (2,)
    assert program.calls[2].writes == {2: 0}, "the first one's slot is free by then"
    assert program.slots == ((2, 8),)
    replay(table, program)


def test_a_shared_signature_writes_what_any_of_its_calls_must() -> None:
    table = subnet(chain(), "RRR", "RcR", "RRR", "cRR", "RRR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 0, 2, 0]
    assert program.signatures[0].writes == (0, 1)
    assert all(call.writes.keys() == {0, 1} for call in program.calls[::2])
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
    varies = tuple(v or i == topology.output for i, v in enumerate(topology.varies))
    moving_head = dataclasses.replace(topology, varies=varies)
    rows = ("RRR", "ccR", "ccc", "ccR", "cRR")
    for order in ((0, 1, 2, 3, 4), (0, 3, 1, 2, 4)):
        table = subnet(moving_head, *(rows[i] for i in order))
        program = plan_program(table, 1)
        runs_c = [c for c in program.calls if program.signatures[c.signature].computes == (2, 3)]
        assert len({call.signature for call in runs_c}) == 1
        assert len({slot for call in runs_c for slot in call.writes.values()}) == 1
        assert len(program.slots) == 3, (
            "a, b, and one for the c that is read and the one that is not"
        )
        replay(table, program)


def test_a_residual_is_written_once_and_read_by_each_delta() -> None:
    topology = chain()
    table = subnet(topology, "RRR", "RdR", "RdR", "RRR", "RdR")
    program = plan_program(table, 1)
    residual, total = topology.residual(1), topology.sum(1)
    assert [call.signature for call in program.calls] == [0, 1, 1, 0, 1]
    assert program.signatures[0].writes == (residual,)
    assert program.signatures[1].reads == (residual,)
    assert program.signatures[1].computes == (0, 2, 3, total)
    assert program.slots == ((2, 4),)
    replay(table, program)


def test_a_full_step_whose_residual_nobody_reads_shares_the_graph() -> None:
    table = subnet(hourglass(), "RRR", "RRd", "RRR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 0]
    replay(table, program)


def test_a_skip_reads_no_residual_and_is_another_graph_than_a_delta() -> None:
    topology = chain()
    table = subnet(topology, "RRR", "RdR", "RsR", "RsR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 2, 2]
    assert program.signatures[1].computes == program.signatures[2].computes
    assert program.signatures[1].reads == (topology.residual(1),)
    assert program.signatures[2].reads == ()
    assert program.replaced(topology) == {1}
    replay(table, program)


def test_what_a_delta_emits_is_cached_under_the_name_of_the_port() -> None:
    topology = chain()
    table = subnet(topology, "RRR", "RdR", "RcR")
    program = plan_program(table, 1)
    assert program.signatures[1].writes == (1,)
    assert program.signatures[2].reads == (1,)
    names = program.to_json(topology.tensor_names)["calls"]
    assert [list(call["writes"]) for call in names] == [["b:residual"], ["b:0"], []]
    replay(table, program)


def test_random_tables_read_what_they_should() -> None:
    for seed in range(40):
        for topology in (chain(), chain(varying=(True, False, True)), hourglass()):
            table = random_mix(subnet(topology, *["RRR"] * 12), seed)
            replay(table, plan_program(table, 1))


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
