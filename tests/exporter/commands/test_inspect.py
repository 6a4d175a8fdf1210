"""`stepcarve inspect`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import Places, ok, require_refused


def test_inspect_prints_the_contract(made: Path, tmp_path: Path) -> None:
    data = json.loads(ok("inspect", made / "bundle.json", "--json"))
    promised = {
        "steps", "blocks", "calls", "signatures", "macs_full", "macs_kept", "keep", "params_kept",
        "cache_bytes", "actions", "timesteps",
    }  # fmt: skip
    assert promised <= set(data)
    assert len(data["actions"]) == data["steps"] == len(data["timesteps"]) == 8
    assert {len(row) for row in data["actions"]} == {len(data["blocks"])}
    assert data["keep"] == pytest.approx(data["macs_kept"] / data["macs_full"])
    assert json.loads(ok("inspect", made / "bundle", "--json")) == data, "the bundle has its SubNet"


def test_inspect_counts_the_batch_of_a_bundle(made: Path, variants: Path) -> None:
    one, three, smaller = (
        json.loads(ok("inspect", *words, "--json"))["cache_bytes"]
        for words in ((made / "bundle",), (variants,), (variants, "--height", 16))
    )
    assert three == 3 * one > smaller > 0


def test_inspect_draws_the_grid(made: Path, tmp_path: Path) -> None:
    printed = ok("inspect", made / "bundle.json", "--image", tmp_path / "grid.png")
    rows = [line for line in printed.splitlines() if re.search("[█▒·]{8}$", line)]
    assert len(rows) == len(json.loads((made / "bundle.json").read_text())["topology"]["blocks"])
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width > 300
    ok("inspect", made / "bundle", "--image", tmp_path / "grid.svg")
    assert "<svg" in (tmp_path / "grid.svg").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
    ("inspect {subnet} --num-images 2", "--num-images (for a bundle; a SubNet has one shape) has no effect here"),
    ("inspect {tmp}", "is not a bundle"),
    ("inspect {subnet} --image {tmp}/x.bmp", "give a file that ends in .png, .svg or .pdf"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, line: str, message: str
) -> None:
    require_refused(line, message, bad_places)
