"""Distilling from the command line, and what can be done with what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.core.actions import Action
from search.core.subnet import Granularity, SubNet
from search.core.table import with_actions
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from tests.command_line import ok, stepcarve

GONE = ("mid_block.resnets.1", "up_blocks.1.resnets.1")
SHORT = ("--iterations", 2, "--batch", 2)


@pytest.fixture(scope="module")
def folder(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `subnet.json` that skips, `full.json` that does not, and `pictures`."""
    root = tmp_path_factory.mktemp("distill")
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    whole = full(opened, Options(steps=3, granularity=Granularity.LAYER))
    whole.save(root / "full.json")
    names = whole.topology.blocks
    with_actions(
        whole, lambda _, b: Action.SKIP if names[b] in GONE else Action.RUN, "by hand"
    ).save(root / "subnet.json")
    (root / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{number}.png")
        (root / "pictures" / f"{number}.txt").write_text("a red circle")
    return root


def test_a_distilled_pipeline_goes_through_the_other_commands(
    pipelines: Callable[[str], Path], folder: Path
) -> None:
    out, subnet = folder / "out", folder / "again.json"
    given = (pipelines("three-levels"), folder / "subnet.json", "-o", out)
    line = ok("distill", *given, "--data", folder / "pictures", *SHORT)
    assert "2 blocks removed" in line
    assert "2 iterations" in line
    ok("search", out, "-o", subnet, "--method", "deepcache", "--steps", 4, "--interval", 2)
    actions = {action for row in SubNet.load(subnet).actions for action in row}
    assert actions == {Action.RUN, Action.REUSE, Action.SKIP}
    for name in GONE:
        assert name in ok("inspect", subnet)


def test_json_says_what_is_gone(pipelines: Callable[[str], Path], folder: Path) -> None:
    given = (pipelines("three-levels"), folder / "subnet.json", "-o", folder / "other")
    found = json.loads(ok("distill", *given, "--data", folder / "pictures", *SHORT, "--json"))
    assert found["removed"] == sorted(GONE)
    assert found["params"][1] < found["params"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("full.json", "pictures"), "the SubNet skips no block"),
        (("subnet.json", "nowhere"), "there is no directory"),
        (
            ("subnet.json", "pictures", "--loss", "l2"),
            "'l2' is not one of 'normalized', 'plain', 'output'",
        ),
        (
            ("subnet.json", "pictures", "--loss", "output", "--feature-weight", "2"),
            "--feature-weight (for --loss normalized and plain) has no effect here",
        ),
        (("subnet.json", "pictures", "--batch", "0"), "0 is not in the range x>=1"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    pipelines: Callable[[str], Path], folder: Path, options: tuple[str, ...], message: str
) -> None:
    subnet, data, *rest = options
    given = (pipelines("three-levels"), folder / subnet, "-o", folder / "none")
    result = stepcarve("distill", *given, "--data", folder / data, *rest)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder / "none").exists()
