"""Plans: grids, files, and what they are bound to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.core.errors import SearchError
from search.core.quantisation import Grid, Layer, Quantisation, digest, scheme_named
from search.core.subnet import SubNet
from search.quantise.ranges import Ranges
from search.quantise.recipe import Quantised

SUBNET = Path(__file__).parents[2] / "golden" / "subnet-schema-4.json"


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
        {"a.weight": Layer(-1.0, 2.0, 0.75, 0.01, exponents=(0, -3, 14))},
        {"b.weight": Layer(0.0, 1.0, 0.25)},
        fingerprint="f",
        subnet="s",
    )
    file = tmp_path / "plan.json"
    plan.save(file)
    assert Quantisation.load(file) == plan
    assert '"exponents": [0,-3,14]' in file.read_text(), "a channel does not take a line"
    assert "exponents" not in json.loads(file.read_text())["kept"]["b.weight"]


def test_a_plan_with_spans_survives_its_file(tmp_path: Path) -> None:
    layer = Layer(-1.0, 2.0, 1.0, spans=((-1.0, 0.5), (0.0, 1e-7), (0.0, 2.0)))
    plan = Quantisation(scheme_named("int8"), {"a.weight": layer}, starts=(3, 9))
    file = tmp_path / "plan.json"
    plan.save(file)
    assert Quantisation.load(file) == plan
    assert json.loads(file.read_text())["schema"] == 3
    assert [plan.span_of(step) for step in (0, 2, 3, 8, 9, 40)] == [0, 0, 1, 1, 2, 2]
    alone = plan.at(1)
    assert (alone.starts, alone.layers["a.weight"]) == ((), Layer(0.0, 1e-7, 1.0))


@pytest.mark.parametrize(
    ("starts", "spans", "message"),
    [
        ([3], [[-1, 2]], "in 2 spans"),
        ([3], [], "in 2 spans"),
        ([], [[-1, 2], [-1, 2]], "in 1 spans"),
        ([3], [[-1, 2], [-2, 2]], "in 2 spans"),
        ([3], [[-1, 2], [2, -1]], "the range 2.0 to -1.0"),
        ([3], [[-1, 2], [0]], "missing"),
        ([0], [[-1, 2], [-1, 2]], r"start at \[0\]"),
        ([4, 3], [[-1, 2]] * 3, r"start at \[4, 3\]"),
        ([-1], [[-1, 2]] * 2, r"start at \[-1\]"),
        ([1.5], [[-1, 2]] * 2, r"start at \[1\.5\]"),
    ],
)
def test_spans_that_cannot_be_are_refused(
    tmp_path: Path, starts: object, spans: object, message: str
) -> None:
    plan = Quantisation(scheme_named("int8"), {"a.weight": Layer(-1.0, 2.0)}).to_json()
    plan["starts"], plan["layers"]["a.weight"]["spans"] = starts, spans
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(SearchError, match=f"{message}.*; make it again"):
        Quantisation.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("scheme", "exponents", "message"),
    [
        ("int8", [0, 15], "the exponent 15"),
        ("int8", [-15], "the exponent -15"),
        ("int8", [0.5], r"the exponent 0\.5"),
        ("int8", [True], "the exponent True"),
        ("int8", ["1"], "the exponent '1'"),
        ("int8", 3, "not iterable"),
        ("int8-weights", [1], "leaves inputs in floating point"),
    ],
)
def test_exponents_that_cannot_be_are_refused(
    tmp_path: Path, scheme: str, exponents: object, message: str
) -> None:
    plan = Quantisation(scheme_named(scheme), {"a.weight": Layer(-1.0, 2.0)}).to_json()
    plan["layers"]["a.weight"]["exponents"] = exponents
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(SearchError, match=f"{message}.*; make it again"):
        Quantisation.load(tmp_path / "plan.json")


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


def test_the_plan_lies_beside_its_subnet_and_says_what_was_measured(tmp_path: Path) -> None:
    subnet = SubNet.load(SUBNET)
    plan = Quantisation(
        scheme_named("int8"), {"a.weight": Layer(-1.0, 2.0, 1.0)}, subnet=digest(subnet)
    )
    found = Quantised(
        plan,
        subnet,
        plain=0.03,
        rounded=0.05,
        fitted=0.04,
        drift=0.02,
        worst=0.03,
        predicted=None,
        ranges=Ranges.MINMAX,
        smoothing=None,
    )
    file = found.save(tmp_path / "int8.json")
    assert file == tmp_path / "int8.quantisation.json"
    loaded = Quantisation.load(file)
    loaded.require_for(SubNet.load(tmp_path / "int8.json"))
    assert loaded.layers == plan.layers
    assert (loaded.origin["error_float"], loaded.origin["error_refitted"]) == (0.03, 0.04)
    assert (loaded.origin["drift"], loaded.origin["share"]) == (0.02, 1.0)
