"""`stepcarve verify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command_line import Places, ok, require_refused, stepcarve


def test_verify_exits_0_and_writes_a_report(made: Path, tmp_path: Path) -> None:
    printed = ok("verify", made / "bundle", "--engine", "onnxruntime", "--report", tmp_path / "r")
    assert "Parity holds: onnxruntime on cpu, 8 calls" in printed
    written = {file.name for file in (tmp_path / "r").iterdir()}
    assert written == {"report.html", "parity.json", "junit.xml"}
    data = json.loads(ok("verify", made / "dit", "--json", "--prompt", "red square"))
    assert data["passed"] is True
    line = ("verify", made / "dit", "--json", "--all-variants", "--prompt", "red square")
    assert [each["passed"] for each in json.loads(ok(*line))] == [True]


def test_verify_exits_1_when_parity_fails(made: Path, tmp_path: Path) -> None:
    from tests.engines.test_parity import resign, variant

    bundle = shutil.copytree(made / "bundle", tmp_path / "bundle")
    sampler = variant(bundle)["sampler"]
    sampler["final"][1] += 0.5
    resign(bundle, sampler=sampler)
    result = stepcarve("verify", bundle, "--json", "--junit", tmp_path / "junit.xml")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"]
    assert "<failure" in (tmp_path / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
    ("verify {bundle} {no}", "is not a bundle"),
    ("verify {bundle} {classes} --junit {tmp}/x.xml", "but 2 variants are to be verified"),
    ("verify {bundle} --engine magic", "'magic' is not one of the choices; choose from onnxruntime"),
    ("verify {bundle} --engine ,", "nothing is named; choose from onnxruntime"),
    ("verify {bundle} --pipeline {no}", "there is no directory"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, line: str, message: str
) -> None:
    require_refused(line, message, bad_places)
