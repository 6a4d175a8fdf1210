"""The demo, with few pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.demo.example import EMOJI, SHAPES
from engines.demo.page import page_of, summary_of
from engines.demo.record import Demo, DemoRow
from engines.demo.run import run_demo
from engines.parity.record import Rung
from search.core.errors import SearchError
from tests.engines.made_up import RIGHT, WRONG, made_up

ROWS = (
    DemoRow("full sampler", 28, 6_400_000_000, 0.4, None, {"emoji": 0.5}),
    DemoRow("FORA <3>", 28, 2_400_000_000, 0.15, 28.4, {"emoji": 0.6}),
    DemoRow("fewer steps", 7, 1_600_000_000, 0.1, 22.7, {"emoji": 0.55}),
    DemoRow("carve", 7, 1_600_000_000, 0.1, 29.94, {"emoji": 0.52}),
    DemoRow("carve, a short search", 7, 1_600_000_000, 0.1, 35.0, {"emoji": 0.52}),
)


def demo_of(*engines: Rung) -> Demo:
    return Demo("emoji", ROWS, 3, made_up(*engines), Path("index.html"))


def test_the_summary_compares_with_the_best_of_the_other_methods() -> None:
    assert summary_of(demo_of(RIGHT)) == (
        "carve is 4.0 x faster than the full sampler, and its pictures are at 29.9 dB PSNR from the full "
        "sampler's; the best of the others, FORA <3>, is at 28.4 dB for 1.50 times the MACs. Parity with "
        "PyTorch holds."
    )


def test_the_page_brings_everything_it_shows() -> None:
    page = page_of(demo_of(RIGHT), b"png", "report/report.html", {"machine": "a & b"})
    assert 'class="verdict holds"' in page
    assert "FORA &lt;3&gt;" in page
    assert "a &amp; b" in page
    assert page.count('<tr class="proved"><th scope="row">carve</th>') == 1
    for cell in ("4.00 x", "29.9 dB", "52%", "1.60 G"):
        assert f"<td>{cell}</td>" in page
    assert 'src="data:image/png;base64,cG5n"' in page
    assert 'href="report/report.html"' in page
    for outside in ('src="http', 'href="http', "url(http", "<script", "@import"):
        assert outside not in page


def test_the_page_says_that_parity_fails() -> None:
    page = page_of(demo_of(RIGHT, WRONG), b"png", "report/report.html", {})
    assert 'class="verdict fails"' in page
    assert "Parity with PyTorch FAILS" in page


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
    assert demo.page == tmp_path / "demo" / "index.html"
    page = demo.page.read_text()
    assert summary_of(demo).replace("'", "&#39;") in page
    assert page.count("data:image/png") == 1
    report = (tmp_path / "demo" / "report" / "report.html").read_text()
    assert "Parity holds" in report
    assert report.count("data:image/png") >= 4
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
