"""Which engines and precisions are measured, and why others are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import EngineError
from engines.optimize import candidates
from engines.optimize.candidates import find_candidates
from engines.optimize.quantised import layers_for
from engines.optimize.settings import OptimizeSettings, tier_named
from search.quantise.ranges import Kinds

QUICK = tier_named("quick")


class _Engine:
    def __init__(self, *, knows_gpu: bool) -> None:
        self.knows_gpu = knows_gpu

    def key(self) -> dict[str, str]:
        if not self.knows_gpu:
            msg = "give --compute-capability"
            raise EngineError(msg)
        return {}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime, OpenVINO and TensorRT-RTX are here, TensorRT is not; there is no GPU."""

    def make(settings: OptimizeSettings, name: str) -> _Engine:
        if name == "tensorrt":
            msg = "the package tensorrt is not installed"
            raise EngineError(msg)
        return _Engine(knows_gpu=settings.compute_capability is not None)

    monkeypatch.setattr(candidates, "engine_for", make)


def asked(**given: object) -> OptimizeSettings:
    return OptimizeSettings(pipeline=Path("mine"), **given)  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_without_engines_all_that_run_here_are_measured_and_the_others_named() -> None:
    found = find_candidates(asked(precisions=()))
    assert found.engines == {"float32": ("onnxruntime", "openvino")}
    assert "none were tried" in found.left_out["quantised layers"]
    assert found.left_out["tensorrt"] == "the package tensorrt is not installed"
    assert "compute-capability" in found.left_out["tensorrt-rtx"]
    assert any("float16" in name for name in found.left_out), "precisions that were not asked for"


@pytest.mark.usefixtures("installed")
def test_an_engine_that_was_asked_for_and_is_missing_is_refused() -> None:
    with pytest.raises(EngineError, match="tensorrt is not installed"):
        find_candidates(asked(engines=("onnxruntime", "tensorrt")))


@pytest.mark.usefixtures("installed")
def test_plans_for_another_machine_are_built_and_not_measured() -> None:
    found = find_candidates(
        asked(engines=("openvino", "tensorrt-rtx"), compute_capability="8.9", tier=QUICK)
    )
    assert found.engines == {"float32": ("openvino",)}
    assert found.builders == ("tensorrt-rtx",)
    assert "cannot run" in found.left_out["tensorrt-rtx"]
    with pytest.raises(EngineError, match="no engine runs float32 on cpu"):
        find_candidates(asked(engines=("tensorrt-rtx",), compute_capability="8.9"))


@pytest.mark.usefixtures("installed")
def test_a_precision_without_kernels_is_measured_where_there_are_some() -> None:
    found = find_candidates(asked(dtypes=("float32", "bfloat16")))
    assert found.engines["bfloat16"] == ("openvino",)
    assert found.left_out["onnxruntime in bfloat16"] == "it has no bfloat16 kernels on cpu"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("given", "schemes"),
    [
        ({}, {"int8": ("onnxruntime", "openvino")}),
        ({"tier": QUICK}, {}),
        ({"tier": QUICK, "precisions": ("int8",)}, {"int8": ("onnxruntime", "openvino")}),
        ({"precisions": ()}, {}),
        ({"dtypes": ("bfloat16", "float32")}, {"int8": ("openvino",)}),
    ],
)
def test_few_bits_are_tried_on_engines_that_multiply_fast_in_them(
    given: dict[str, object], schemes: dict[str, tuple[str, ...]]
) -> None:
    settings = asked(**given)
    found = find_candidates(settings).engines
    assert {name: each for name, each in found.items() if name not in settings.dtypes} == schemes


@pytest.mark.usefixtures("installed")
def test_few_bits_that_no_engine_here_multiplies_fast_in_are_refused() -> None:
    with pytest.raises(EngineError, match="multiplies fast in fp8; give --precision int8 or none"):
        find_candidates(asked(precisions=("fp8",)))


def test_convolutions_are_quantised_unless_no_engine_has_kernels_for_them() -> None:
    assert layers_for(("onnxruntime",)) is Kinds.LINEAR
    assert layers_for(("onnxruntime", "openvino")) is Kinds.ALL
