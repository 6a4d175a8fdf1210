"""Bundles of pipelines that have lost blocks for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.base import make_engine
from engines.parity import verify
from exporter.bundle import Bundle
from exporter.exporting import export
from exporter.picture import grid_lines
from search.core.actions import Action
from search.core.subnet import Granularity, SubNet
from search.distill.student import prune, save_pipeline
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline

GONE = ("down_blocks.1.attentions.0", "mid_block.resnets.1", "up_blocks.1.resnets.1")


def skip_and_reuse(path: Path) -> SubNet:
    """Every second step reuses the middle and one more stage."""
    opened = open_pipeline(path, weights=False)
    whole = full(opened, Options(steps=4, guidance=3.0, granularity=Granularity.STAGE))
    reused = {whole.topology.blocks.index(name) for name in ("mid_block", "up_blocks.0")}
    rows = tuple(
        tuple(
            Action.REUSE if step % 2 and block in reused else action
            for block, action in enumerate(row)
        )
        for step, row in enumerate(whole.actions)
    )
    return replace(whole, actions=rows, method="skip and reuse")


@pytest.fixture(scope="module")
def pruned(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "pipeline"
    whole = open_pipeline(pipelines("three-levels"))
    save_pipeline(whole, prune(whole, GONE), out)
    return out


@pytest.fixture(scope="module")
def bundle(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(pruned, skip_and_reuse(pruned), tmp_path_factory.mktemp("bundle") / "bundle")


def test_skip_and_reuse_in_one_subnet_pass_verification(bundle: Bundle, pruned: Path) -> None:
    found, _ = verify(bundle, [make_engine("onnxruntime", "cpu")], pruned, prompt="a red circle")
    assert found.passed


def test_graphs_know_nothing_of_what_is_gone(bundle: Bundle, pruned: Path) -> None:
    kept = set(open_pipeline(pruned).denoiser.state_dict())
    for file in bundle.path.rglob("step_*.onnx"):
        model = onnx.load(file, load_external_data=False)
        named = {each.name.removeprefix("denoiser.") for each in model.graph.initializer}
        inside = {name for name in named if name.startswith(GONE)}
        assert inside <= kept
        assert all("conv_shortcut" in name for name in inside)


def test_inspection_shows_both(bundle: Bundle) -> None:
    lines = "\n".join(grid_lines(bundle.subnet))
    assert all(name in lines for name in GONE)
    actions = {action for row in bundle.subnet.actions for action in row}
    assert {Action.SKIP, Action.REUSE} <= actions
