"""The unrolled program: signatures, cache slots, calls."""

from __future__ import annotations

import numpy as np

from exporter.program import Program, plan_program
from search.sampler import SamplerTable
from search.subnet import SubNet
from tests.toys import chain, hourglass, subnet


def replay(table: SubNet, program: Program) -> None:
    """Walk the program with numbered values in its slots; every read must find the right value."""
    from search.liveness import unroll

    unrolled = unroll(table)
    held: dict[int, int] = {}
    for call in program.calls:
        for port, slot in call.reads.items():
            assert held[slot] == unrolled.effective[call.step][port]
        assert not set(call.reads.values()) & set(call.writes.values())
        for port, slot in call.writes.items():
            held[slot] = unrolled.effective[call.step][port]


def test_equal_steps_share_a_signature() -> None:
    table = subnet(hourglass(), "RRR", "RcR", "RcR", "RRR", "RcR")
    program = plan_program(table, 1)
    assert [call.signature for call in program.calls] == [0, 1, 1, 0, 1]
    assert program.signatures[1].reads == (2,)
    assert program.signatures[0].writes == (2,)
    assert program.slots == ((2, 8),)
    replay(table, program)


def test_a_full_step_whose_cache_nobody_reads_writes_none() -> None:
    program = plan_program(subnet(hourglass(), "RRR", "RcR", "RRR"), 1)
    assert [call.signature for call in program.calls] == [0, 1, 2]
    assert program.signatures[2].writes == ()


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
