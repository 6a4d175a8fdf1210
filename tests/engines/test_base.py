"""What all engines have in common."""

import pytest

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError


def test_an_option_an_engine_does_not_know_is_refused() -> None:
    with pytest.raises(
        EngineError, match="onnxruntime on cpu does not take --workspace, --strip-weights"
    ):
        make_engine("onnxruntime", "cpu", EngineOptions(workspace=64, strip_weights=True))


def test_options_an_engine_knows_are_taken() -> None:
    assert make_engine("onnxruntime", "cpu", EngineOptions(threads=1)).device == "cpu"


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    with pytest.raises(EngineError, match=r"unknown engine 'magic'; choose one of .*onnxruntime"):
        make_engine("magic", "cpu")
