"""What benchmarks leave behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.record import RESULTS, ROOT, machine, portable

FOLDER = re.compile(r'(?:"|\s)(/\w[^"\s]*/[^"\s]+)')
COMMITTED = [*RESULTS.glob("*.json"), *(ROOT / "examples").rglob("*.json")]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (str(ROOT / "examples" / "judge.onnx"), "examples/judge.onnx"),
        (
            {"out": [Path("/somewhere/else/real.npy"), 3, "float32"]},
            {"out": ["real.npy", 3, "float32"]},
        ),
        ("examples/shapes", "examples/shapes"),
        ("ours=/somewhere/subnet.json", "ours=subnet.json"),
    ],
)
def test_a_record_keeps_no_folder_of_the_machine(value: object, kept: object) -> None:
    assert portable(value) == kept


@pytest.mark.parametrize("file", COMMITTED, ids=[str(f.relative_to(ROOT)) for f in COMMITTED])
def test_no_committed_file_names_a_folder_of_a_machine(file: Path) -> None:
    assert not FOLDER.findall(file.read_text(encoding="utf-8"))


def test_a_folder_would_be_seen() -> None:
    assert FOLDER.findall('"judge": "/home/someone/judge.onnx"')
    assert FOLDER.findall('"command": "python -m x -o /home/out"')


def test_a_record_names_the_packages_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.record.PACKAGES", ("numpy", "no-such-package"))
    found = machine()
    assert found["numpy"]
    assert "no-such-package" not in found
