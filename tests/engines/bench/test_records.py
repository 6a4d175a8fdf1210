"""Figures of a comparison, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.bench.records import (
    Bench,
    BenchRow,
    Contender,
    ContenderKind,
    Sample,
    Spread,
)
from exporter.shape import Shape

SHAPE = Shape(64, 64, 1)


def row(
    name: str, kind: ContenderKind, loops: tuple[float, ...], *, full: bool, engine: str = ""
) -> BenchRow:
    contender = Contender(name, kind, Path(name), SHAPE, full, "cpu", Path("p"), "float32", engine)
    samples = tuple(Sample(loop + 1, loop, (loop / 2, loop / 2)) for loop in loops)
    return BenchRow(contender, samples, note="" if loops else "not installed")


def made() -> Bench:
    """A machine that is twice as slow in its second round."""
    return Bench(
        bundle="b",
        subnet="toy",
        shape=SHAPE,
        dtype="float32",
        macs_ratio=4.0,
        steps=(0, 3),
        macs=(1.0, 0.25),
        graphs=(0, 1),
        rows=(
            row("PyTorch", ContenderKind.EAGER, (12, 24, 12), full=True),
            row("DeepCache", ContenderKind.DEEPCACHE, (), full=False),
            row("ort", ContenderKind.ENGINE, (6, 12, 6), full=True, engine="ort"),
            row("ort + SubNet", ContenderKind.ENGINE, (2, 4, 2), full=False, engine="ort"),
        ),
        warmup=1,
    )


def test_speedups_are_of_one_round() -> None:
    bench = made()
    assert bench.eager is not None
    assert bench.rows[3].speedup_over(bench.eager) == Spread(6.0, 6.0, 6.0)


def test_a_subnet_is_held_against_its_own_engine() -> None:
    bench = made()
    subnet = bench.rows[3]
    assert bench.full_of(subnet) is bench.rows[2]
    assert bench.reached(subnet) == pytest.approx(3 / 4)
    assert bench.reached(bench.rows[2]) is None, "a full run has no MACs ratio to reach"


def test_a_quantised_row_has_the_error_that_its_plan_says() -> None:
    bench = made()
    *others, last = bench.rows
    quantised = replace(last, contender=replace(last.contender, precision="int8"))
    errors = {"error_float": 0.03, "error_refitted": 0.04, "drift": 0.02}
    bench = replace(bench, rows=(*others, quantised), errors=errors)
    assert [bench.error(row) for row in bench.rows] == [None, None, None, 0.04]
    told = bench.to_json()
    assert [row["precision"] for row in told["rows"]] == ["float32"] * 3 + ["int8"]
    assert told["rows"][3]["error"] == 0.04
    assert told["errors"] == errors
    assert replace(bench, rows=(*others, last)).error(last) == 0.03, "gated, in floating point"
    assert made().error(last) is None, "without a plan nobody has measured it"


def test_what_could_not_run_is_in_no_figure() -> None:
    bench = made()
    assert [each.contender.name for each in bench.measured] == ["PyTorch", "ort", "ort + SubNet"]
    told = bench.to_json()["rows"]
    assert told[1]["note"] == "not installed"
    assert told[3]["share_of_macs_ratio"] == pytest.approx(3 / 4)
    assert told[3]["call_seconds"] == [1.0, 1.0]


def test_a_spread_is_a_median_between_quartiles() -> None:
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0)
