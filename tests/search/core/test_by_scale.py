"""Fitted rows that depend on the guidance scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.core.errors import SearchError
from search.core.sampler import FittedSampler, SamplerTable, ScaleRange
from search.core.subnet import SubNet
from search.core.summary import call_times, summarise
from tests.toys import chain, subnet

SCALES = ScaleRange(2.0, 7.0, 4.0)
TIMES = (900.0, 500.0, 100.0)


def term(seed: int) -> SamplerTable:
    random = np.random.default_rng(seed)
    inputs = np.tril(random.normal(size=(3, 4)))
    return SamplerTable(inputs, random.normal(size=4))


FITTED = FittedSampler.of_terms(TIMES, [term(0), term(1), term(2)], SCALES)


def coefficients(data: dict[str, Any], scale: float) -> np.ndarray:
    """All rows, evaluated with numpy from the JSON values alone."""
    by = data["by_scale"]
    terms = [
        np.array([row + [0.0] * (4 - len(row)) for row in (*each["inputs"], each["final"])])
        for each in (data, *by["powers"])
    ]
    place = (scale - by["guidance"]) / (by["high"] - by["low"])
    found: np.ndarray = np.polynomial.polynomial.polyval(place, np.stack(terms))
    return found


@pytest.mark.parametrize("scale", [2.0, 3.3, 4.0, 7.0])
def test_rows_at_a_scale_are_those_of_numpys_polynomial(scale: float) -> None:
    table = FITTED.at(scale).table
    expected = coefficients(json.loads(json.dumps(FITTED.to_json())), scale)
    assert np.allclose(np.vstack([table.inputs, table.final]), expected)
    assert (scale == SCALES.guidance) == (table == FITTED.table)


def test_a_polynomial_goes_through_the_rows_that_it_is_made_of_and_can_be_moved() -> None:
    found = {scale: FITTED.at(scale) for scale in SCALES.fitted_at}
    for made in (FittedSampler.through(found, SCALES), FITTED.around(6.0)):
        for scale in (2.0, 5.5, 7.0):
            assert np.allclose(made.at(scale).table.inputs, FITTED.at(scale).table.inputs)
    assert np.allclose(FITTED.around(6.0).table.final, FITTED.at(6.0).table.final)


def test_it_is_read_back_and_rows_for_one_scale_are_written_as_before() -> None:
    assert FittedSampler.from_json(FITTED.to_json()) == FITTED
    assert "by_scale" not in FITTED.at(3.0).to_json()
    assert FittedSampler.from_json(FITTED.at(3.0).to_json()) == FITTED.at(3.0)
    assert FITTED.at(3.0).at(99.0) == FITTED.at(3.0)


@pytest.mark.parametrize("scale", [1.99, 7.01, float("nan")])
def test_a_scale_outside_the_range_is_refused(scale: float) -> None:
    with pytest.raises(SearchError, match="was fitted for 2 to 7; give a scale in that range"):
        FITTED.at(scale)


@pytest.mark.parametrize("given", [(7.0, 2.0, 4.0), (2.0, 2.0, 2.0), (2.0, 7.0, 7.5)])
def test_what_is_no_range_is_refused(given: tuple[float, float, float]) -> None:
    with pytest.raises(SearchError, match="give --guidance-range LOW HIGH"):
        ScaleRange(*given)


def test_a_term_that_uses_a_prediction_too_early_is_refused() -> None:
    late = replace(term(1), inputs=np.ones((3, 4)))
    with pytest.raises(SearchError, match="before it is made"):
        FittedSampler.of_terms(TIMES, [term(0), late], SCALES)


def ranged() -> SubNet:
    table = subnet(chain(), "RRR", "RRR", "RRR")
    return replace(table, fitted=FITTED, guidance=SCALES.guidance)


def test_a_subnet_is_taken_to_a_scale_of_its_range(tmp_path: Path) -> None:
    found = ranged()
    found.save(tmp_path / "subnet.json")
    assert json.loads((tmp_path / "subnet.json").read_text())["schema"] == 7
    assert SubNet.load(tmp_path / "subnet.json") == found
    assert found.guidance_range == (2.0, 7.0)
    there = found.at(5.5)
    assert (there.guidance, there.guidance_range) == (5.5, (5.5, 5.5))
    assert there.fitted == FITTED.at(5.5)
    assert there.to_json()["schema"] == 5
    assert replace(found, fitted=None).at(99.0).guidance_range is None
    assert call_times(summarise(found)).startswith("fitted sampler for guidance 2 to 7, calls at")


def test_rows_around_another_scale_than_the_subnets_are_refused() -> None:
    with pytest.raises(SearchError, match=r"guidance 3, .* around 4; write them around the same"):
        replace(ranged(), guidance=3.0)
