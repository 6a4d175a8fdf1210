"""The result and the page, from files that are made up."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from engines.optimize.forms import forms_of, refusals
from engines.optimize.outcome import outcome_of
from engines.optimize.page import page_of
from engines.optimize.settings import Goal, OptimizeSettings
from tests.engines.optimize.records import write_all

SETTINGS = OptimizeSettings(pipeline=Path("models/mine"))
SECTIONS = (
    "verdict", "figures", "run", "pictures", "frontier", "seconds", "grid", "parity", "not-done",
    "settings", "times", "environment", "more",
)  # fmt: skip


def test_the_fastest_engine_is_taken_and_compared_with_both_full_samplers(tmp_path: Path) -> None:
    result = outcome_of(write_all(tmp_path, SETTINGS), SETTINGS)
    taken = result["taken"]
    assert (taken["engine"], taken["dtype"]) == ("openvino", "float32")
    assert taken["speedup"] == pytest.approx(2.0 / 0.4)
    assert taken["speedup_over_pytorch"] == pytest.approx(4.0 / 0.4)
    assert result["passed"]
    assert [row["engine"] for row in result["measured"]] == ["onnxruntime", "openvino"]
    assert "5.00 x faster than the full sampler on openvino" in result["verdict"]
    assert "41.5 dB" in result["verdict"]
    assert "at 80% of its cost, at 30.2 dB" in result["verdict"]
    assert result["run"].endswith(
        "--engine openvino --prompt 'a red cross' --seed 1 -o picture.png"
    )


def test_an_engine_whose_parity_fails_is_not_taken_however_fast(tmp_path: Path) -> None:
    result = outcome_of(write_all(tmp_path, SETTINGS, failing=("openvino",)), SETTINGS)
    assert result["taken"]["engine"] == "onnxruntime"
    assert not result["passed"]
    assert "Parity FAILS for openvino in float32" in result["verdict"]


def test_nothing_is_taken_if_parity_fails_everywhere(tmp_path: Path) -> None:
    folder = write_all(tmp_path, SETTINGS, failing=("onnxruntime", "openvino"))
    result = outcome_of(folder, SETTINGS)
    assert result["taken"] is result["run"] is None
    assert not result["passed"]
    assert 'class="verdict fails"' in page_of(folder, json.loads(json.dumps(result)))


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(min_psnr=41), True), (Goal(min_psnr=42), False),
        (Goal(max_error=0.02), True), (Goal(max_error=0.01), False),
    ],
)  # fmt: skip
def test_a_goal_that_is_missed_fails(tmp_path: Path, goal: Goal, met: bool) -> None:
    settings = OptimizeSettings(pipeline=Path("mine"), goal=goal)
    result = outcome_of(write_all(tmp_path, settings), settings)
    assert result["passed"] is met
    assert ("is MISSED" in result["verdict"]) is not met


def test_few_bits_are_taken_where_they_are_faster_and_close_enough(tmp_path: Path) -> None:
    folder = write_all(tmp_path, SETTINGS, quantised=0.025)
    result = outcome_of(folder, SETTINGS)
    rows = {(row["engine"], row["precision"]): row for row in result["measured"]}
    taken = result["taken"]
    assert taken is rows["openvino", "int8"]
    assert (taken["dtype"], taken["error"], taken["psnr"]) == ("float32", 0.025, 40.0)
    assert taken["memory_bytes"] == 11 * 10**7 < rows["openvino", "float32"]["memory_bytes"]
    assert rows["openvino", "float32"]["error"] == 0.02
    assert "8.00 x faster than the full sampler on openvino in int8" in result["verdict"]
    assert "40.0 dB" in result["verdict"]
    page = page_of(folder, json.loads(json.dumps(result)))
    assert "the same in int8" in page
    assert "openvino, int8, 110 MB" in re.sub(r"<!-- | -->", "", page), "a point of the chart"


@pytest.mark.parametrize(
    ("goal", "error", "is_measured"),
    [
        (Goal(keep=0.3), 0.026, True), (Goal(keep=0.3), 0.0261, False),
        (Goal(max_error=0.03), 0.03, True), (Goal(max_error=0.03), 0.031, False),
        (Goal(min_psnr=39), 0.5, True), (Goal(min_psnr=41), 0.001, False),
    ],
)  # fmt: skip
def test_few_bits_are_measured_within_the_goal_or_close_to_the_subnets_own_error(
    tmp_path: Path, goal: Goal, error: float, is_measured: bool
) -> None:
    settings = OptimizeSettings(pipeline=Path("mine"), goal=goal)
    folder = write_all(tmp_path, settings, quantised=error)
    names = [form.name for form in forms_of(folder, settings)]
    assert names == (["float32", "int8"] if is_measured else ["float32"])
    assert bool(refusals(folder, goal)["int8"]) is not is_measured


def test_few_bits_are_not_taken_if_their_parity_fails(tmp_path: Path) -> None:
    result = outcome_of(write_all(tmp_path, SETTINGS, quantised=0.02, failing=("int8",)), SETTINGS)
    assert "openvino in int8" in result["parity_failures"]
    assert not result["passed"]


class _Page(HTMLParser):
    """What a page has: the ids of its elements, its pictures, its links and how deep it is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given and tag in ("h2", "p", "div") else []
        self.images += [given["src"] or ""] if tag == "img" else []
        self.links += [given["href"] or ""] if tag == "a" else []


def test_the_page_has_every_section_and_needs_no_other_file(tmp_path: Path) -> None:
    folder = write_all(tmp_path, SETTINGS)
    folder.write(folder.result, outcome_of(folder, SETTINGS))
    text = page_of(folder, folder.read(folder.result))
    page = _Page()
    page.feed(text)
    assert tuple(page.ids) == SECTIONS
    assert len(page.images) == 3 * 2 + 1
    assert all(source.startswith("data:image/png;base64,") for source in page.images)
    assert all((folder.path / link).is_file() for link in page.links)
    assert len(page.links) == 3
    assert "a &#34;blue&#34; &lt;disc&gt;" in text, "prompts are escaped"
    assert "no &lt;GPU&gt; here" in text
    assert re.search(r'class="taken"><td>openvino on cpu', text)
    assert "<svg" in text
