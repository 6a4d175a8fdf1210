"""An ONNX Runtime that is too old for bundles."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from engines.base import make_engine
from engines.doctor import examine
from engines.errors import EngineError
from engines.opset import OLDEST, OPSET, require_onnxruntime
from exporter import graph

README = Path(__file__).parent.parent.parent / "README.md"


def test_an_old_onnxruntime_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.19.2")
    with pytest.raises(
        EngineError,
        match=r"this is onnxruntime 1\.19\.2, .*opset 23, which needs .* 1\.23 or newer",
    ):
        make_engine("onnxruntime", "cpu")
    [found] = [each for each in examine() if each.name == "onnxruntime on cpu"]
    assert not found.works
    assert "1.19.2" in found.detail
    assert "1.23" in found.detail


@pytest.mark.parametrize("version", ["1.23.0", "1.31.1", "2.0", "1.24.0.dev20251001"])
def test_newer_ones_are_taken(version: str) -> None:
    require_onnxruntime(version)


def test_the_opset_is_that_of_the_exporter_and_the_version_that_of_the_readme() -> None:
    assert graph.OPSET == OPSET
    assert f'"onnxruntime>={".".join(map(str, OLDEST))}"' in README.read_text(encoding="utf-8")
