"""`stepcarve doctor`."""

from __future__ import annotations

import json

from tests.command_line import ok


def test_doctor_knows_what_works() -> None:
    findings = {f["name"]: f for f in json.loads(ok("doctor", "--json"))}
    assert findings["torch"]["works"]
    assert findings["onnxruntime on cpu"]["works"]
    assert "onnxruntime on cuda" in findings
    assert "onnxruntime on cpu" in ok("doctor")
