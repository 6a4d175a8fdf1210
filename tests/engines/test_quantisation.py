"""A quantised bundle from the command line, and faults in it that `verify` must name."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from engines.base import make_engine
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import MANIFEST, Bundle
from search.core.quantisation import Quantisation
from tests.command_line import ok, stepcarve

PIPELINE, PROMPT = "learned-variance", "1"


@pytest.fixture(scope="module")
def folder(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`int8`, `float` and `weights` bundles of one SubNet, and the files that they were made of."""
    root = tmp_path_factory.mktemp("quantised")
    pipeline = pipelines(PIPELINE)
    ok("search", pipeline, "-o", root / "given.json", "--method", "random", "--steps", 8)
    ok(
        "quantise", pipeline, root / "given.json", "-o", root / "int8.json",
        "--pictures", 8, "--probed", 1, "--float-share", 0.2,
    )  # fmt: skip
    ok("export", pipeline, root / "int8.json", "-o", root / "int8", "--precision", "mixed")
    ok("export", pipeline, root / "int8.json", "-o", root / "float")
    ok(
        "export", pipeline, root / "int8.json", "-o", root / "weights",
        "--precision", "int8-weights",
    )  # fmt: skip
    return root


def test_what_is_left_in_floating_point_is_what_was_asked_for(folder: Path) -> None:
    plan = Quantisation.load(folder / "int8.quantisation.json")
    kept = sum(each.share for each in plan.kept.values())
    assert 0.15 < kept <= 0.2
    assert sum(each.share for each in plan.layers.values()) == pytest.approx(1 - kept)
    errors = [each.error for each in (*plan.layers.values(), *plan.kept.values())]
    assert all(error is not None and 0 < error < 1 for error in errors)


@pytest.mark.parametrize("name", ["int8", "weights"])
def test_parity_holds_and_the_weights_are_smaller(
    folder: Path, pipelines: Callable[[str], Path], name: str
) -> None:
    bundle, single = (Bundle.open(folder / each) for each in (name, "float"))
    engines = [make_engine(each, "cpu") for each in ("onnxruntime", "openvino")]
    parity, _ = verify(bundle, engines, pipelines(PIPELINE), prompt=PROMPT)
    assert parity.passed, parity.failures
    assert len(parity.engines) == 2
    assert bundle.precision == ("int8" if name == "int8" else "int8-weights")
    latents = [Runner(each, engines[0]).run(PROMPT, seed=1).latents for each in (bundle, single)]
    off = np.linalg.norm(latents[0] - latents[1]) / np.linalg.norm(latents[1])
    assert 1e-4 < off < 0.2, "bits are lost, the picture is not"
    sizes = [(each.path / "weights.bin").stat().st_size for each in (bundle, single)]
    assert sizes[0] < sizes[1]


def test_an_export_is_the_same_bytes_again(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    ok(
        "export", pipelines(PIPELINE), folder / "int8.json", "-o", tmp_path / "again",
        "--precision", "mixed",
    )  # fmt: skip
    manifests = [
        json.loads((f / MANIFEST).read_text())["files"]
        for f in (folder / "int8", tmp_path / "again")
    ]
    assert manifests[0] == manifests[1]


Change = Callable[[ir.Graph], str]


def a_wrong_scale(graph: ir.Graph) -> str:
    """A weight's scale, doubled."""
    value = next(v for n, v in graph.initializers.items() if n.endswith(".scale"))
    _set(value, _array(value) * 2)
    return "are .* steps of their scale from the pipeline's"


def a_wrong_zero(graph: ir.Graph) -> str:
    """The zero point of one layer's inputs."""
    value = next(v for n, v in graph.initializers.items() if n.endswith("/zero"))
    _set(value, _array(value) + np.array(3, _array(value).dtype))
    return "are rounded with scale .* and zero .*, the plan asks for"


def a_wrong_range(graph: ir.Graph) -> str:
    """The scale of one layer's inputs, a third of it."""
    value = next(v for n, v in graph.initializers.items() if n.endswith("/scale"))
    _set(value, _array(value) / 3)
    return "are rounded with scale .* and zero .*, the plan asks for"


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _set(value: ir.Value, array: np.ndarray) -> None:
    value.const_value = ir.tensor(array.copy(), name=value.name)


def with_change(bundle: Path, target: Path, change: Change) -> tuple[Bundle, str]:
    """A copy of the bundle whose first step graph is changed, with a manifest that says so."""
    shutil.copytree(bundle, target)
    manifest = json.loads((target / MANIFEST).read_text())
    file = manifest["variants"][0]["graphs"][0]
    model = ir.load(target / file)
    expected = change(model.graph)
    ir.save(model, target / file)
    manifest["files"][file] = hashlib.sha256((target / file).read_bytes()).hexdigest()
    (target / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(target), expected


@pytest.mark.parametrize("change", [a_wrong_scale, a_wrong_zero, a_wrong_range])
def test_a_planted_fault_is_named(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path, change: Change
) -> None:
    bundle, expected = with_change(folder / "int8", tmp_path / "bundle", change)
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines(PIPELINE), prompt=PROMPT)
    numbers = next(rung for rung in parity.rungs if rung.name == "integers and scales")
    assert len(numbers.failures) >= 1
    assert re.search(expected, numbers.failures[0]), numbers.failures


def test_a_range_that_cuts_off_the_inputs_is_named(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    plan = json.loads((folder / "int8.quantisation.json").read_text())
    name = next(iter(plan["layers"]))
    plan["layers"][name] |= {"low": -0.01, "high": 0.01}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    out = tmp_path / "bundle"
    ok(
        "export", pipelines(PIPELINE), folder / "int8.json", "-o", out,
        "--quantisation", tmp_path / "plan.json",
    )  # fmt: skip
    parity, _ = verify(
        Bundle.open(out), [make_engine("onnxruntime", "cpu")], pipelines(PIPELINE), prompt=PROMPT
    )
    assert any(f"of the inputs of {name!r} cuts off" in each for each in parity.failures)


def refused(message: str, *arguments: object) -> None:
    result = stepcarve(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_plan_of_another_subnet_is_refused(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    refused(
        "the quantisation was calibrated on the calls of another SubNet",
        "export", pipelines(PIPELINE), folder / "given.json", "-o", tmp_path / "out",
        "--quantisation", folder / "int8.quantisation.json",
    )  # fmt: skip


def test_int8_without_a_plan_is_refused(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    refused(
        "there is no quantisation",
        "export", pipelines(PIPELINE), folder / "given.json", "-o", tmp_path / "out",
        "--precision", "int8",
    )  # fmt: skip
