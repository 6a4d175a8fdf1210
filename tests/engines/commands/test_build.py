"""`stepcarve build`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command_line import Places, ok, require_refused


def test_build_loads_the_graphs_of_all_variants(made: Path, variants: Path) -> None:
    one, two = (
        json.loads(ok("build", each, "--json"))["graphs"] for each in (made / "bundle", variants)
    )
    assert one < two < 2 * one, "what variants share is built once"


def test_build_loads_every_graph(made: Path) -> None:
    assert "graphs load on onnxruntime (cpu)" in ok("build", made / "bundle")
    assert json.loads(ok("build", made / "bundle", "--json"))["graphs"] >= 1


def test_build_says_what_it_would_do_and_does_only_that(made: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(made / "dit", tmp_path / "dit")
    line = ("build", bundle, "--engine", "openvino")
    planned = json.loads(ok(*line, "--dry-run", "--json"))
    assert planned["seconds"] > 0 < planned["bytes"]
    assert {each["built"] for each in planned["graphs"]} == {False}
    assert not (bundle / "built").exists()
    assert "estimate" in ok(*line, "--dry-run")
    done = json.loads(ok(*line, "--json"))
    assert done["built"] == done["graphs"] == len(planned["graphs"])
    assert f"0 graphs built in 0.0 s, {done['graphs']} had been built" in ok(*line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
    ("build {bundle} --engine magic", "'magic' is not one of 'onnxruntime'"),
    ("build {bundle} --engine openvino --device cuda", "openvino runs on cpu"),
    ("build {bundle} --engine onnxruntime --workspace 9", "does not take --workspace"),
    ("build {bundle} --jobs 0", "0 is not in the range x>=1"),
    ("build {bundle} --parallel moon", "'moon' is not one of 'local', 'ray', 'dask'"),
        ("build {bundle} --engine openvino --resident 2", "--resident (for runs; build loads one"),
        ("build {bundle} --no-cuda-graph", "onnxruntime on cpu does not take --no-cuda-graph"),
        ("build {bundle} --jobs 2", "--jobs (for engines that build files; onnxruntime"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, line: str, message: str
) -> None:
    require_refused(line, message, bad_places)
