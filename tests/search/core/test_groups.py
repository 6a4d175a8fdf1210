"""Steps that do not all do the same: names of their calls, tables, costs and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.groups import Groups, Kind, grouped, require_one_group
from search.core.liveness import unroll
from search.core.program import plan_program
from search.core.subnet import SubNet
from search.core.summary import cells, summarise
from search.core.table import keep_of, with_rows
from search.methods.schedules import random_reuse
from search.supernet.shares import step_costs
from tests.arithmetic import executed, worked_out
from tests.mixes import random_mix
from tests.toys import guided_at_first, subnet

FULL = ("RRRR", "RRRR", "RRRR", "RRRR")


def test_two_networks_of_two_calls_are_named_after_both() -> None:
    calls = [[Kind("high", 0), Kind("high", 1)], [Kind("low", 2), Kind("low", 3)]]
    found = grouped([0, 0, 1], calls)
    assert found.calls == (("high/cond", "high/uncond"), ("low/cond", "low/uncond"))
    assert found.network("low/cond") == "low"
    assert found.first_step(1) == 2


def test_networks_of_one_call_are_named_like_the_networks() -> None:
    found = grouped([0, 0], [[Kind("transformer", 0), Kind("unconditional", 1)]])
    assert found.calls == (("transformer", "unconditional"),)


def test_the_same_call_at_other_steps_is_the_same_stream() -> None:
    found = grouped([0, 1], [[Kind("unet", 0), Kind("unet", 1)], [Kind("unet", 0)]])
    assert found.calls == (("cond", "uncond"), ("cond",))
    turned = grouped([0, 1], [[Kind("unet", 0)], [Kind("unet", 0), Kind("unet", 1)]])
    assert turned.calls == (("cond",), ("cond", "uncond"))


def test_other_calls_in_the_same_place_have_other_names() -> None:
    found = grouped([0, 1], [[Kind("unet", 0)], [Kind("unet", 1)]])
    assert len({*found.streams}) == 2


@pytest.mark.parametrize(
    ("of_steps", "calls"), [((0, 1), (("cond",),)), ((0,), (("cond", "uncond"),))]
)
def test_groups_that_do_not_fit_together_are_refused(
    of_steps: tuple[int, ...], calls: tuple[tuple[str, ...], ...]
) -> None:
    with pytest.raises(ValueError, match="the groups of steps"):
        Groups(of_steps, calls, (("cond", "unet"),))


def test_a_step_has_the_blocks_that_its_prediction_is_computed_from() -> None:
    topology = guided_at_first()
    assert [topology.has(step, 2) for step in range(4)] == [True, True, False, False]
    assert [topology.has(step, 0) for step in range(4)] == [True] * 4
    assert topology.ports_at(3) == (0, 1)


def test_a_full_step_costs_what_its_group_does() -> None:
    full = subnet(guided_at_first(), *FULL)
    assert unroll(full).macs == (251, 251, 130, 130)
    assert full.topology.macs == (251 + 251 + 130 + 130) / 4
    assert keep_of(full) == 1
    assert unroll(full).params == full.topology.params == 5


def test_groups_have_graphs_of_their_own() -> None:
    program = plan_program(subnet(guided_at_first(), *FULL), 1)
    assert [call.signature for call in program.calls] == [0, 0, 1, 1]
    assert [signature.group for signature in program.signatures] == [0, 1]
    assert all(signature.predicts for signature in program.signatures)


def test_a_shared_block_is_reused_across_groups() -> None:
    table = subnet(guided_at_first(), "RRRR", "RRRR", "RcRR", "RRRR")
    unrolled = unroll(table)
    assert unrolled.computed[2] != unrolled.computed[1]
    assert unrolled.macs[2] == 0, "the prediction is the first call of step 1 as it is"
    program = plan_program(table, 1)
    assert [call.step for call in program.calls] == [0, 1, 2, 3], "another group's prediction"


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_equal_the_arithmetic(seed: int) -> None:
    table = random_mix(subnet(guided_at_first(), *FULL), seed)
    program = plan_program(table, 1)
    assert executed(table, program) == pytest.approx(worked_out(table), rel=1e-9)


def test_a_cell_of_a_block_that_a_step_does_not_have_cannot_be_chosen() -> None:
    with pytest.raises(SearchError, match=r"step 3 has actions for \['uncond'\].*cond"):
        subnet(guided_at_first(), "RRRR", "RRRR", "RRRR", "RRRc")
    full = subnet(guided_at_first(), *FULL)
    reused = with_rows(full, [full.actions[0], *[(Action.REUSE,) * 4] * 3])
    assert reused.actions[3] == (Action.REUSE, Action.REUSE, Action.RUN, Action.RUN)
    assert cells(reused)[3][2] is None
    assert summarise(reused)["count"][Action.REUSE] == 8


def test_the_first_step_that_has_a_block_runs_it() -> None:
    turned = guided_at_first().to_json()
    turned["groups"]["of_steps"] = [1, 1, 0, 0]
    topology = type(guided_at_first()).from_json(turned)
    assert topology.first_step(3) == 2
    with pytest.raises(SearchError, match="step 2 has REUSE for 'uncond'"):
        subnet(topology, "RRRR", "RRRR", "RRRc", "RRRR")
    chosen = random_reuse(subnet(topology, *FULL), keep=0.7, seed=1)
    assert chosen.actions[2][2:] == (Action.RUN, Action.RUN)


def test_as_many_rows_as_steps_are_needed() -> None:
    with pytest.raises(SearchError, match="2 groups that compute differently, 4 steps in all"):
        subnet(guided_at_first(), *FULL[:3])


def test_a_file_says_its_groups_and_others_are_written_as_before(tmp_path: Path) -> None:
    grouped_one = subnet(guided_at_first(), *FULL)
    grouped_one.save(tmp_path / "subnet.json")
    assert SubNet.load(tmp_path / "subnet.json") == grouped_one
    assert json.loads((tmp_path / "subnet.json").read_text())["schema"] == 6


def test_costs_of_a_step_are_those_of_its_group() -> None:
    full = subnet(guided_at_first(), *FULL)
    costs = step_costs(full, (Action.RUN, Action.REUSE))
    assert costs.shape == (4, 4, 2)
    assert costs[0, 2, 0] > 0
    assert costs[3, 2:] == pytest.approx(0)
    assert costs.sum((1, 2)) == pytest.approx(1)


def test_what_needs_steps_that_do_the_same_refuses_others() -> None:
    require_one_group(None, "fitting")
    with pytest.raises(SearchError, match=r"fitting needs a .*steps \[2\] compute something else"):
        require_one_group(guided_at_first().groups, "fitting")
