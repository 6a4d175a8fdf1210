"""From pipeline to SubNets by the paper's recipe, made small."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from search.core.actions import Action
from search.core.subnet import Granularity, SubNet
from search.core.table import keep_of
from search.dipgo.paper import run_paper
from search.dipgo.recipe import PAPER
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline


def test_one_search_gives_a_subnet_for_each_keep(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    options = Options(steps=12, guidance=3.0, granularity=Granularity.STAGE)
    recipe = dataclasses.replace(PAPER, iterations=3, learning_rate=10.0, width=16, head=(8,))
    opened = open_pipeline(pipelines("three-levels"))
    found = run_paper(
        opened,
        full(opened, options),
        (0.3, 0.6),
        prompts=("", "a red square"),
        recipe=recipe,
        folder=tmp_path,
    )
    for subnet, keep in zip(found, (0.3, 0.6), strict=True):
        assert 0.5 * keep < keep_of(subnet) <= keep
        assert set(subnet.actions[0]) == {Action.RUN}
        assert subnet.method == f"dip-go keep {keep} seed 0"
    file = tmp_path / "subnet.json"
    found[0].save(file)
    assert SubNet.load(file) == found[0]
