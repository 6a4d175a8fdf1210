"""The SubNet: its checks, its file, its binding."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from search.core.actions import Action, Source
from search.core.errors import SearchError
from search.core.liveness import unroll
from search.core.subnet import Cell, SubNet
from search.core.topology import Base, Topology, base_of
from tests.toys import chain, hourglass, subnet


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ("Rcc", "RRR"),
            (
                "step 0 has REUSE for ['b', 'c'], but no earlier step has filled their cache; "
                "keep every block at step 0"
            ),
        ),
        (
            ("dRR", "RRR"),
            (
                "step 0 has DELTA for ['a'], but no earlier step has filled their cache; "
                "keep every block at step 0"
            ),
        ),
        (
            ("sRR", "dRR"),
            "step 1 has DELTA for 'a', but no earlier step runs it; set 'a' to RUN at a step before 1",
        ),
        (
            ("RRR", "RdR"),
            (
                "step 1 has DELTA for ['deep'], but that passes on the input of a block, and the "
                "outputs of these have another shape, or an older stepcarve took the input of a whole call; use RUN or "
                "REUSE there, a finer granularity, or search again"
            ),
        ),
        (
            ("sss", "RRR"),
            (
                "step 0 has SKIP for ['deep', 'down'], but that passes on the input of a block, and "
                "the outputs of these have another shape, or an older stepcarve took the input of a whole call; use RUN "
                "or REUSE there, a finer granularity, or search again"
            ),
        ),
        (
            ("RRf", "RRR"),
            (
                "step 0 has FORECAST for ['c'], but no earlier step has filled their cache; "
                "keep every block at step 0"
            ),
        ),
        (
            ("RRR", "RRc", "RRf"),
            (
                "step 2 has FORECAST for 'c', but no earlier step runs it twice; "
                "set 'c' to RUN at two steps before 2"
            ),
        ),
        (
            ("RRR", "RR"),
            "steps [1] have [2] actions, but there are 3 blocks; give one action per block",
        ),
    ],
)
def test_an_inconsistent_table_is_refused(rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(SearchError) as caught:
        subnet(hourglass() if "deep" in message else chain(), *rows)
    assert str(caught.value) == message


def test_a_table_of_the_wrong_length_is_refused() -> None:
    whole = subnet(chain(), "RRR", "RRR")
    with pytest.raises(SearchError, match="the table has 1 steps, but the sampler has 2 timesteps"):
        dataclasses.replace(whole, actions=whole.actions[:1])


def test_a_block_may_be_skipped_before_it_ever_runs_and_reused_after() -> None:
    assert subnet(chain(), "sRR", "cRR", "RRR", "dRR").actions[0][0] is Action.SKIP


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ((), "step 2 has FORECAST for 'b' with the coefficients []; give 2 finite numbers"),
        (
            ((2, 1, (1.0,)),),
            "step 2 has FORECAST for 'b' with the coefficients [1.0]; give 2 finite numbers",
        ),
        (
            ((2, 1, (1.0, 2.0, 3.0)),),
            "step 2 has FORECAST for 'b' with the coefficients [1.0, 2.0, 3.0]; give 2 finite numbers",
        ),
        (
            ((2, 1, (1.0, math.nan)),),
            "step 2 has FORECAST for 'b' with the coefficients [1.0, nan]; give 2 finite numbers",
        ),
        (
            ((2, 1, (2.0, -1.0)), (1, 0, (1.0,))),
            "step 1 has RUN for 'a' with the coefficients [1.0]; give 0 finite numbers",
        ),
    ],
)
def test_coefficients_that_an_action_does_not_ask_for_are_refused(
    coefficients: tuple[Cell, ...], message: str
) -> None:
    table = subnet(chain(), "RRR", "RRR", "RfR")
    with pytest.raises(SearchError) as caught:
        dataclasses.replace(table, coefficients=coefficients)
    assert str(caught.value) == message


@pytest.mark.parametrize("cell", [(3, 0), (0, 3), (-1, 0)])
def test_coefficients_outside_the_table_are_refused(cell: tuple[int, int]) -> None:
    table = subnet(chain(), "RRR", "RRR", "RfR")
    for weights in ((), (1.0,)):
        with pytest.raises(SearchError, match="coefficients"):
            dataclasses.replace(table, coefficients=(*table.coefficients, (*cell, weights)))


def test_coefficients_that_are_given_twice_are_refused() -> None:
    table = subnet(chain(), "RRR", "RRR", "RfR")
    with pytest.raises(SearchError, match="coefficients"):
        dataclasses.replace(table, coefficients=(*table.coefficients, (2, 1, (3.0, -2.0))))


def test_what_a_cell_emits_is_its_row_with_its_coefficients() -> None:
    table = subnet(chain(), "RRR", "RRR", "dfc")
    moved = dataclasses.replace(table, coefficients=((2, 1, (1.5, -0.25)),))
    assert moved.weights(2, 0) == {Source.BASE: 1, Source.RESIDUAL: 1}
    assert moved.weights(2, 1) == {Source.LAST: 1.5, Source.PREVIOUS: -0.25}
    assert moved.weights(2, 2) == {Source.EMITTED: 1}
    assert SubNet.from_json(moved.to_json(), "x") == moved


def test_a_saved_subnet_is_read_back_equal(tmp_path: Path) -> None:
    table = subnet(hourglass(), "RRR", "RcR", "Rcd", "RRs", "fRR")
    table.save(tmp_path / "subnet.json")
    assert SubNet.load(tmp_path / "subnet.json") == table
    assert [p.name for p in tmp_path.iterdir()] == ["subnet.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        ("[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
        ("[]", "is not a SubNet; give a file written by stepcarve search"),
        (
            '{"kind": "stepcarve-subnet", "schema": 99}',
            "has schema 99, but this stepcarve reads 1 to 9",
        ),
        ('{"kind": "stepcarve-subnet", "schema": 3}', "is wrong or incomplete at 'binding'"),
    ],
)
def test_a_file_that_is_no_subnet_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "subnet.json"
    path.write_text(content)
    with pytest.raises(SearchError) as caught:
        SubNet.load(path)
    assert message in str(caught.value)


GOLDEN = Path(__file__).parent.parent.parent / "golden" / "subnet-schema-4.json"
"""All actions at random on shapes-dit with its attentions and feed-forwards, as schema 4 had it."""
GOLDEN_MACS = (57_673_728, 24_287_232, 19_479_552, 6_620_160)
GOLDEN_PARAMS = 2_884_432
"""What the code of that time said it costs."""


def in_schema(schema: int) -> dict[str, Any]:
    """The golden file as older stepcarves would have written it; 1 knew nothing of DELTA and SKIP."""
    data: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8")) | {"schema": schema}
    binding, topology = data["binding"], data["topology"]
    if schema < 4:
        binding["inference_steps"] = binding.pop("course")["inference_steps"]
        del data["fitted"]
    if schema < 3:
        del binding["noise_shape"]
    if schema < 2:
        targets = len(topology["ports"]) + 1
        del topology["deltas"], topology["attention"]
        topology |= {key: topology[key][:targets] for key in ("reads", "varies")}
        topology["segments"] = [
            [[t for t in needing if t < targets], *rest] for needing, *rest in topology["segments"]
        ]
        known = {"DELTA": "RUN", "SKIP": "RUN"}
        data["actions"] = [[known.get(a, a) for a in row] for row in data["actions"]]
    return data


def written_in_schema_1(table: SubNet) -> dict[str, Any]:
    """The file that a stepcarve which knew RUN and REUSE alone would have written."""
    data = table.to_json() | {"schema": 1}
    del data["coefficients"], data["fitted"], data["origin"]
    binding, topology = data["binding"], data["topology"]
    binding["inference_steps"] = binding.pop("grid")["inference_steps"]
    del binding["noise_shape"]
    rows = [row for row in topology.pop("computations") if row[0] != "base"]
    topology["reads"], topology["varies"] = [r[2] for r in rows], [r[3] for r in rows]
    topology["segments"] = [
        [[t for t in needing if t < len(rows)], *rest] for needing, *rest, _ in topology["segments"]
    ]
    del topology["bases"]
    return data


@pytest.mark.parametrize("schema", [2, 3, 4])
def test_an_older_file_is_read_and_costs_the_same(schema: int) -> None:
    data = in_schema(schema)
    found = SubNet.from_json(data, "old.json")
    assert [list(row) for row in found.actions] == data["actions"]
    assert unroll(found).macs == GOLDEN_MACS
    assert unroll(found).params == GOLDEN_PARAMS
    assert found.coefficients == ()
    assert found == SubNet.load(GOLDEN)


def test_branches_of_an_older_file_have_zeros_in_their_place() -> None:
    topology = SubNet.load(GOLDEN).topology
    assert len(topology.based) == len(topology.blocks)
    for port, owner in enumerate(topology.ports):
        is_branch = topology.blocks[owner.block].endswith((".attn1", ".ff"))
        assert topology.bases[port] == Base(None if is_branch else 0)
        assert topology.reads(base_of(port)) == () or not is_branch
        assert not (is_branch and topology.varies(base_of(port)))


def test_an_older_file_is_written_as_today() -> None:
    old = SubNet.load(GOLDEN)
    assert SubNet.from_json(old.to_json(), "new.json") == old


def test_a_file_of_schema_1_is_read_and_costs_the_same() -> None:
    data = in_schema(1)
    found, known = SubNet.from_json(data, "old.json"), SubNet.load(GOLDEN)
    assert [list(row) for row in found.actions] == data["actions"]
    assert found.topology.bases == {}
    assert unroll(found).macs == unroll(dataclasses.replace(known, actions=found.actions)).macs


def test_nothing_in_a_file_of_schema_1_allows_delta() -> None:
    data = in_schema(1)
    data["actions"][1][0] = "DELTA"
    name = data["topology"]["blocks"][0]
    with pytest.raises(
        SearchError, match=rf"old.json': step 1 has DELTA for \['{name}'\], but that"
    ):
        SubNet.from_json(data, "old.json")


OLD_HOURGLASS = {
    "blocks": ["down", "deep", "up"],
    "ports": [[0, 0, [2, 4]], [0, 1, [2, 4]], [1, 0, [2, 8]], [2, 0, [2, 4]]],
    "deltas": [2],
    "reads": [[], [0], [1], [0, 2], [3], [0, 2, 3], [0, 2, 5]],
    "varies": [True, False, True, True, False, False, False],
    "units": ["deep", "down", "up"],
    "segments": [
        [[0], 20, 2, [1]],
        [[1], 10, 1, [1]],
        [[2], 500, 50, [0]],
        [[3], 30, 3, [2]],
        [[3, 5, 6], 10, 1, []],
        [[0, 3], 5, 1, []],
        [[4], 1, 1, []],
    ],
}
"""`hourglass` as schema 2 to 4 had it: ports, the prediction, a residual and a sum of up."""


def test_a_shortcut_of_an_older_file_is_that_of_today() -> None:
    assert Topology.from_json(OLD_HOURGLASS) == hourglass()


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([0, 2], "incomplete at the topology, 7 rows for 9 targets"),
        ([0], "incomplete at the topology, in which a block allows DELTA without having one port"),
        ([9], "incomplete at the topology, in which a block allows DELTA without having one port"),
        ([1], "incomplete at the topology, in which a target reads a later one"),
    ],
)
def test_an_older_topology_with_other_deltas_than_rows_is_refused(
    deltas: list[int], message: str
) -> None:
    data = subnet(hourglass(), "RRR").to_json() | {"schema": 4}
    data["topology"] = OLD_HOURGLASS | {"deltas": deltas}
    with pytest.raises(SearchError, match=message):
        SubNet.from_json(data, "garbled.json")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("bases", [], "6 computations for 5 targets"),
        ("bases", [[3, 0, None], [0, 0, None]], "6 computations for 7 targets"),
        ("bases", [[3, 0, 9]], "in which a base is no port"),
        ("ports", [[7, 0, [2, 4]]] * 4, "in which a port belongs to no block"),
        (
            "computations",
            [*hourglass().to_json()["computations"][:-1], ["residual", 3, [], False]],
            "6 computations for 6 targets",
        ),
        ("segments", [[[6], 1, 1, [], None]], "list index out of range"),
    ],
)
def test_a_garbled_topology_is_refused(part: str, value: list[Any], message: str) -> None:
    data = subnet(hourglass(), "RRR").to_json()
    data["topology"][part] = value
    with pytest.raises(SearchError, match=f"garbled.json' is wrong or incomplete at .*{message}"):
        SubNet.from_json(data, "garbled.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"cannot read the SubNet .*No such file"):
        SubNet.load(tmp_path / "subnet.json")


def test_an_unknown_action_in_a_file_is_named(tmp_path: Path) -> None:
    data = subnet(chain(), "RRR", "RcR").to_json()
    data["actions"][1][0] = "JUMP"
    path = tmp_path / "subnet.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SearchError, match=r"step 1 has unknown actions \['JUMP'\]"):
        SubNet.load(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "fingerprint",
            "1" * 64,
            f"made for weights and configuration with the fingerprint '{'0' * 64}', but here it is '1",
        ),
        ("scheduler", "PNDMScheduler", "scheduler 'DDIMScheduler', but here it is 'PNDMScheduler'"),
        (
            "scheduler_config",
            {"beta": 0.2},
            "scheduler config {'beta': 0.1}, but here it is {'beta': 0.2}",
        ),
        ("timesteps", (1000.0, 1.0), "timesteps (1000.0, 900.0), but here it is (1000.0, 1.0)"),
        ("latent_shape", (4, 8, 8), "latent shape (1, 2, 2), but here it is (4, 8, 8)"),
        ("guided", False, "guided True, but here it is False"),
    ],
)
def test_a_binding_refuses_anything_else_and_names_both(
    field: str, value: object, message: str
) -> None:
    binding = subnet(chain(), "RRR", "RRR").binding
    with pytest.raises(SearchError) as caught:
        binding.require(dataclasses.replace(binding, **{field: value}))
    assert message in str(caught.value)


def test_a_binding_accepts_itself() -> None:
    binding = subnet(chain(), "RRR").binding
    binding.require(dataclasses.replace(binding))
