"""Tables that other projects publish, as SubNets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.summary import summarise
from search.foreign.gate_file import Gate, read_gates
from search.foreign.tables import gates_of_stages, subnet_from_gates
from search.methods.options import Options
from search.model.family import family_of
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from tests import gate_files
from tests.pipelines import stable_diffusion_15


class NoWeights:
    """Stands in for the weights of a denoiser that has none."""

    def fingerprint(self, config: object) -> str:
        del config
        return "0" * 64


def test_the_published_table_is_ten_calls_and_a_fifth_of_the_cost(tmp_path: Path) -> None:
    pipe = stable_diffusion_15()
    pipe.set_progress_bar_config(disable=True)
    family = family_of("StableDiffusionPipeline")
    pipeline = Pipeline(tmp_path, pipe, family, weights=NoWeights())  # type: ignore[arg-type]
    gates = read_gates(gate_files.write(gate_files.published(), tmp_path / "gates.pkl"))
    subnet = subnet_from_gates(pipeline, gates, Options(steps=50))
    found = summarise(subnet)
    assert (found["calls"], found["signatures"]) == (10, 2)
    assert found["keep"] == pytest.approx(0.2, abs=0.001)
    assert found["keep_without_attention"] == pytest.approx(0.2, abs=0.001)
    assert found["macs_full_without_attention"] / 50e9 == pytest.approx(338.83, rel=0.001)
    blocks = subnet.topology.blocks
    assert {
        (step, name)
        for step in gate_files.PUBLISHED_CALLS
        for name, action in zip(blocks, subnet.actions[step], strict=True)
        if action is Action.REUSE
    } == {(7, "down_blocks.3")}


def test_up_blocks_are_counted_from_the_last() -> None:
    stages = ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    assert gates_of_stages(stages) == {
        "down_blocks.0": Gate("down", 0),
        "down_blocks.1": Gate("down", 1),
        "mid_block": Gate("mid", 0),
        "up_blocks.0": Gate("up", 1),
        "up_blocks.1": Gate("up", 0),
    }


def test_each_gate_reaches_its_block(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    reused = {(1, ("up", "block", 0, 0)), (2, ("down", "block", 2, 0)), (3, gate_files.MID)}
    path = gate_files.write(gate_files.table(3, 4, reused), tmp_path / "gates.pkl")
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    subnet = subnet_from_gates(opened, read_gates(path), Options(steps=4))
    assert [
        [n for n, a in zip(subnet.topology.blocks, row, strict=True) if a is Action.REUSE]
        for row in subnet.actions
    ] == [[], ["up_blocks.2"], ["down_blocks.2"], ["mid_block"]]


def test_the_middle_block_may_be_called_as_the_others(tmp_path: Path) -> None:
    gates = gate_files.table(2, 3, {(1, gate_files.MID)})
    plain = [
        {("mid", "block", 0, 0) if k == gate_files.MID else k: v for k, v in step.items()}
        for step in gates
    ]
    found = [read_gates(gate_files.write(each, tmp_path / "gates.pkl")) for each in (gates, plain)]
    assert found[0] == found[1]
    assert [gates[Gate("mid", 0)] for gates in found[0]] == [True, False, True]


def test_gates_for_a_transformer_are_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    gates = read_gates(gate_files.write(gate_files.table(3, 4, ()), tmp_path / "gates.pkl"))
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    with pytest.raises(SearchError, match=r"for U-Nets .* has 'transformer_blocks.0'"):
        subnet_from_gates(opened, gates, Options(steps=4))


def test_a_sampler_with_more_calls_than_steps_counts_its_calls(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = open_pipeline(pipelines("two-levels"), weights=False)
    gates = read_gates(gate_files.write(gate_files.table(2, 5, ()), tmp_path / "gates.pkl"))
    assert subnet_from_gates(opened, gates, Options(steps=4)).steps == 5
    with pytest.raises(
        SearchError, match="5 steps, but PNDMScheduler with --steps 5 makes 6 calls"
    ):
        subnet_from_gates(opened, gates, Options(steps=5))
