"""The SubNet: its checks, its file, its binding."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.liveness import unroll
from search.core.subnet import SubNet
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
                "step 1 has DELTA for ['deep'], but that takes one tensor in and one of the same "
                "shape out; use RUN or REUSE there, or a finer granularity"
            ),
        ),
        (
            ("sss", "RRR"),
            (
                "step 0 has SKIP for ['deep', 'down'], but that takes one tensor in and one of the "
                "same shape out; use RUN or REUSE there, or a finer granularity"
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


def test_a_saved_subnet_is_read_back_equal(tmp_path: Path) -> None:
    table = subnet(hourglass(), "RRR", "RcR", "Rcd", "RRs")
    table.save(tmp_path / "subnet.json")
    assert SubNet.load(tmp_path / "subnet.json") == table
    assert [p.name for p in tmp_path.iterdir()] == ["subnet.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not JSON"),
        ("[]", "is not a SubNet; give a file written by stepcarve search"),
        (
            '{"kind": "stepcarve-subnet", "schema": 99}',
            "has schema 99, but this stepcarve reads 1 to 4",
        ),
        ('{"kind": "stepcarve-subnet", "schema": 3}', "lacks or garbles 'binding'"),
    ],
)
def test_a_file_that_is_no_subnet_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "subnet.json"
    path.write_text(content)
    with pytest.raises(SearchError) as caught:
        SubNet.load(path)
    assert message in str(caught.value)


def in_schema_1(table: SubNet) -> dict[str, Any]:
    """The file that a stepcarve without DELTA would have written."""
    data = table.to_json() | {"schema": 1}
    later = ("noise_shape", "course")
    data["binding"] = {k: v for k, v in data["binding"].items() if k not in later}
    data["binding"]["inference_steps"] = table.binding.inference_steps
    topology = table.topology
    data["topology"] |= {
        "reads": data["topology"]["reads"][: topology.output + 1],
        "varies": data["topology"]["varies"][: topology.output + 1],
        "segments": [
            [[t for t in targets if t <= topology.output], *rest]
            for targets, *rest in data["topology"]["segments"]
        ],
    }
    del data["topology"]["deltas"]
    return data


def test_a_file_of_schema_1_is_read_and_costs_the_same() -> None:
    table = subnet(chain(), "RRR", "RcR")
    old = SubNet.from_json(in_schema_1(table), "old.json")
    assert old.actions == table.actions
    assert old.topology.deltas == ()
    assert unroll(old).macs == unroll(table).macs


def test_nothing_in_a_file_of_schema_1_allows_delta() -> None:
    data = in_schema_1(subnet(chain(), "RRR", "RcR"))
    data["actions"][1][1] = "DELTA"
    with pytest.raises(SearchError, match=r"old.json': step 1 has DELTA for \['b'\], but that"):
        SubNet.from_json(data, "old.json")


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([0, 2], "garbles the topology, 7 and 7 rows for 9 targets"),
        ([0], "garbles the topology, in which block 0 allows DELTA without having one port"),
        ([9], "garbles the topology, in which block 9 allows DELTA without having one port"),
        ([1], "garbles the topology, in which 'deep' has no residual that DELTA adds"),
    ],
)
def test_a_topology_with_other_deltas_than_rows_is_refused(deltas: list[int], message: str) -> None:
    data = subnet(hourglass(), "RRR").to_json()
    data["topology"]["deltas"] = deltas
    with pytest.raises(SearchError, match=message):
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
