"""Plans: grids, files, and what they are bound to."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.core.errors import SearchError
from search.core.quantisation import Grid, Layer, Quantisation, scheme_named


@pytest.mark.parametrize(
    ("scheme", "low", "high", "grid"),
    [
        ("int8", -1.0, 3.0, Grid(4 / 255, 64)),
        ("int8", 1.0, 2.55, Grid(0.01, 0)),  # zero is always on the grid
        ("int8", -2.55, -1.0, Grid(0.01, 255)),
        ("int8-symmetric", -1.0, 1.27, Grid(0.01, 0)),
        ("fp8", -4.48, 1.0, Grid(0.01, 0)),
    ],
)
def test_a_grid_covers_the_range_and_holds_zero(
    scheme: str, low: float, high: float, grid: Grid
) -> None:
    found = scheme_named(scheme).grid_of(low, high)
    assert found.zero == grid.zero
    assert found.scale == pytest.approx(grid.scale)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = Quantisation(
        scheme_named("int8"),
        {"a.weight": Layer(-1.0, 2.0, 0.75, 0.01)},
        {"b.weight": Layer(0.0, 1.0, 0.25)},
        fingerprint="f",
        subnet="s",
    )
    plan.save(tmp_path / "plan.json")
    assert Quantisation.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"kind": "stepcarve-subnet", "schema": 1}', '{"kind": 1'], ids=repr
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(SearchError, match="is no quantisation plan that this version can read"):
        Quantisation.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"there is no quantisation plan .*none.json"):
        Quantisation.load(tmp_path / "none.json")
