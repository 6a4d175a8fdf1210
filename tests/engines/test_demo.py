"""The demo, with few pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.demo.example import EMOJI, SHAPES
from engines.demo.run import run_demo
from search.core.errors import SearchError


@pytest.mark.slow
def test_the_demo_shows_what_each_method_costs_and_that_parity_holds(tmp_path: Path) -> None:
    told: list[str] = []
    demo = run_demo(tmp_path / "demo", told.append, example=SHAPES, pictures=2)
    assert [row.name for row in demo.rows] == [contender.name for contender in SHAPES.contenders]
    full, cached, fewer, paper, ours, live = demo.rows
    assert (full.calls, cached.calls) == (50, 50)
    assert all(row.macs <= cached.macs < 0.35 * full.macs for row in (fewer, paper, ours, live))
    assert full.psnr is None
    others = [row.psnr or 0.0 for row in (cached, fewer, paper)]
    assert (ours.psnr or 0.0) > max(others) + 6
    assert (live.psnr or 0.0) > max(others)
    assert full.accuracy["colour"] == full.accuracy["shape"] == 1
    assert demo.parity.passed
    page = demo.page.read_text()
    assert "Parity holds" in page
    assert page.count("data:image/png") >= 4
    written = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert [row["name"] for row in written["rows"]] == [row.name for row in demo.rows]
    assert {"full.png", "deepcache.png", "fewer-steps.png", "carve.png", "compared.png"} <= {
        path.name for path in (tmp_path / "demo").iterdir()
    }
    assert "verify carve against PyTorch" in told


@pytest.mark.slow
def test_the_demo_of_a_transformer(tmp_path: Path) -> None:
    demo = run_demo(tmp_path / "demo", lambda _: None, example=EMOJI, pictures=4)
    full, cached, fewer, paper, ours, live = demo.rows
    assert all(row.macs < cached.macs < 0.4 * full.macs for row in (fewer, paper, ours, live))
    others = [row.psnr or 0.0 for row in (cached, fewer, paper)]
    assert (ours.psnr or 0.0) > max(others)
    assert (live.psnr or 0.0) > (fewer.psnr or 0.0)
    assert set(full.accuracy) == {"emoji", "style", "background"}
    assert demo.parity.passed


def test_the_demo_does_not_write_over_anything(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="exists; remove it or choose another name"):
        run_demo(tmp_path, lambda _: None)
