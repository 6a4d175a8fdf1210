"""A quantised bundle from the command line, and faults in it that `verify` must name."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.integer_kernels import onnxruntime_kernels, openvino_kernels
from engines.base import make_engine
from engines.parity import verify
from engines.parity.twin import float_twin
from engines.runner import Runner
from exporter.bundle import MANIFEST, Bundle
from exporter.quantise import CHANNELS
from search.core.names import layer_of
from search.core.quantisation import Quantisation
from search.model.opening import open_for
from tests.command_line import ok, stepcarve

PIPELINE, PROMPT = "learned-variance", "1"


@pytest.fixture(scope="module")
def folder(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`int8` (smoothed), `float` and `weights` bundles of one SubNet, and the files that they were made of."""
    root = tmp_path_factory.mktemp("quantised")
    pipeline = pipelines(PIPELINE)
    ok("search", pipeline, "-o", root / "given.json", "--method", "random", "--steps", 8)
    ok(
        "quantise", pipeline, root / "given.json", "-o", root / "int8.json",
        "--pictures", 8, "--probed", 1, "--float-share", 0.2, "--smoothing", 0.5,
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


def test_convolutions_are_left_out_where_asked(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    ok(
        "quantise", pipelines(PIPELINE), folder / "given.json", "-o", tmp_path / "linear.json",
        "--layers", "linear", "--ranges", "mse", "--pictures", 1, "--no-refit",
    )  # fmt: skip
    plan = Quantisation.load(tmp_path / "linear.quantisation.json")
    both = Quantisation.load(folder / "int8.quantisation.json")
    convolution = "pos_embed.proj.weight"
    assert convolution in {*both.layers, *both.kept}
    assert plan.layers.keys() == {*both.layers, *both.kept} - {convolution}
    assert [plan.origin[key] for key in ("ranges", "smoothing")] == ["mse", None]
    assert [both.origin[key] for key in ("ranges", "smoothing")] == ["minmax", 0.5]
    assert any(each.exponents for each in both.layers.values())
    assert sum(each.share for each in plan.layers.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["int8", "weights"])
def test_parity_holds_and_the_weights_are_smaller(
    folder: Path, pipelines: Callable[[str], Path], name: str
) -> None:
    bundle, single = (Bundle.open(folder / each) for each in (name, "float"))
    engines = [make_engine(each, "cpu") for each in ("onnxruntime", "openvino")]
    parity, _ = verify(bundle, engines, pipelines(PIPELINE), prompt=PROMPT)
    assert parity.passed, parity.failures
    names = [rung.name for rung in parity.engines]
    assert names[0] == "without rounding, onnxruntime on cpu"
    assert len(names) == 3
    assert parity.engines[0].worst.allowed < 1e-4 < parity.engines[1].worst.allowed
    assert bundle.precision == ("int8" if name == "int8" else "int8-weights")
    latents = [Runner(each, engines[0]).run(PROMPT, seed=1).latents for each in (bundle, single)]
    off = np.linalg.norm(latents[0] - latents[1]) / np.linalg.norm(latents[1])
    assert 1e-4 < off < 0.2, "bits are lost, the picture is not"
    sizes = [(each.path / "weights.bin").stat().st_size for each in (bundle, single)]
    assert sizes[0] < sizes[1]


@pytest.fixture(scope="module")
def in_spans(
    folder: Path, pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle whose ranges differ in three spans of steps."""
    root = tmp_path_factory.mktemp("spans")
    ok(
        "quantise", pipelines(PIPELINE), folder / "given.json", "-o", root / "spans.json",
        "--spans", 3, "--pictures", 4, "--no-refit",
    )  # fmt: skip
    ok(
        "export", pipelines(PIPELINE), root / "spans.json", "-o", root / "bundle",
        "--precision", "mixed",
    )  # fmt: skip
    return root / "bundle"


def graphs_of(bundle: Bundle) -> tuple[Quantisation, dict[int, int]]:
    """The plan, and graph -> the span of its calls."""
    plan = bundle.plan
    assert plan is not None
    pairs = {(call.graph, plan.span_of(call.step)) for call in bundle.calls}
    assert len(pairs) == len(dict(pairs)), "each graph is of one span"
    return plan, dict(pairs)


def test_parity_holds_where_ranges_differ_in_spans(
    in_spans: Path, pipelines: Callable[[str], Path]
) -> None:
    bundle = Bundle.open(in_spans)
    plan, spans = graphs_of(bundle)
    assert plan.spans == 3
    assert set(spans.values()) == {0, 1, 2}
    engines = [make_engine(each, "cpu") for each in ("onnxruntime", "openvino")]
    parity, _ = verify(bundle, engines, pipelines(PIPELINE), prompt=PROMPT)
    assert parity.passed, parity.failures


def test_a_range_of_another_span_is_named(
    in_spans: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Bundle.open(in_spans)
    _, spans = graphs_of(bundle)
    last = next(graph for graph, span in spans.items() if span == 2)
    first = next(graph for graph, span in spans.items() if span == 0)
    others = ir.load(in_spans / bundle.graphs[first]).graph.initializers

    def grids_of_the_first_span(graph: ir.Graph) -> str:
        for name, value in graph.initializers.items():
            if name.endswith(("/scale", "/zero")) and name in others:
                _set(value, _array(others[name]))
        return f"{bundle.graphs[last]}: the inputs of .* are rounded with scale"

    changed, expected = with_change(
        in_spans, tmp_path / "bundle", grids_of_the_first_span, file=bundle.graphs[last]
    )
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(changed, [engine], pipelines(PIPELINE), prompt=PROMPT)
    assert any(re.search(expected, each) for each in parity.failures), parity.failures


def test_spans_need_inputs_that_are_rounded(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    refused(
        "--ranges, --smoothing and --spans are for inputs that are rounded",
        "quantise", pipelines(PIPELINE), folder / "given.json", "-o", tmp_path / "x.json",
        "--spans", 2, "--precision", "int8-weights",
    )  # fmt: skip


def test_parity_holds_in_half_precision(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """The integers are those of the weights in float16, the powers of two are held exactly."""
    pipeline = pipelines(PIPELINE)
    ok(
        "export", pipeline, folder / "int8.json", "-o", tmp_path / "half",
        "--precision", "mixed", "--dtype", "float16",
    )  # fmt: skip
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(Bundle.open(tmp_path / "half"), [engine], pipeline, prompt=PROMPT)
    assert parity.passed, parity.failures


def test_without_rounding_powers_of_two_cancel(
    folder: Path, pipelines: Callable[[str], Path]
) -> None:
    """Bit for bit, so that a wrong one cannot hide."""
    bundle, single = (Bundle.open(folder / each) for each in ("int8", "float"))
    opened = open_for(bundle.subnet, pipelines(PIPELINE), weights=True)
    reference: Any = SimpleNamespace(bundle=bundle, opened=opened)
    engine = make_engine("onnxruntime", "cpu")
    with float_twin(reference) as twin:
        graph = ir.load(twin.file(twin.graphs[0])).graph
        assert any(name.endswith(FACTORS) for name in graph.initializers)
        latents = [Runner(each, engine).run(PROMPT, seed=1).latents for each in (twin, single)]
    assert np.array_equal(*latents)


def test_a_profile_shows_integer_kernels(folder: Path) -> None:
    """Each layer of the plan is one, and the others are as they were."""
    whole, coarse = (Bundle.open(folder / each) for each in ("float", "int8"))
    layers = len(Quantisation.load(folder / "int8.quantisation.json").layers)
    for count in (onnxruntime_kernels, openvino_kernels):
        plain, found = (count(each.file(each.graphs[0])) for each in (whole, coarse))
        assert plain["integer"] == 0
        assert 0 < found["integer"] <= layers
        assert found["integer"] + found["floating point"] == plain["floating point"]


def test_with_integer_weights_alone_no_kernel_multiplies_integers(folder: Path) -> None:
    whole, weights = (Bundle.open(folder / each) for each in ("float", "weights"))
    for count in (onnxruntime_kernels, openvino_kernels):
        plain, found = (count(each.file(each.graphs[0])) for each in (whole, weights))
        assert found == plain


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


FACTORS = "/factors"
"""Ending of what inputs are multiplied with, to divide them by powers of two."""
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


def a_wrong_exponent(graph: ir.Graph) -> str:
    """One channel of one layer's inputs, divided by twice as much."""
    value = next(v for n, v in graph.initializers.items() if n.endswith(FACTORS))
    factors = _array(value).copy()
    factors[3] /= 2
    _set(value, factors)
    return "channel 3 of the inputs of .* is multiplied by .*, the plan asks for"


def a_missing_division(graph: ir.Graph) -> str:
    """Inputs that the plan divides reach the rounding as they are."""
    product = next(
        node
        for node in graph
        if node.op_type == "Mul" and (node.inputs[1].name or "").endswith(FACTORS)
    )
    ir.convenience.replace_all_uses_with(product.outputs[0], product.inputs[0])
    graph.remove(product)
    return "are not divided by a power of two per channel, as the plan asks"


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _set(value: ir.Value, array: np.ndarray) -> None:
    value.const_value = ir.tensor(array.copy(), name=value.name)


def with_change(
    bundle: Path, target: Path, change: Change, *, file: str = ""
) -> tuple[Bundle, str]:
    """A copy of the bundle whose first step graph or `file` is changed, with a manifest that says so."""
    shutil.copytree(bundle, target)
    manifest = json.loads((target / MANIFEST).read_text())
    file = file or manifest["variants"][0]["graphs"][0]
    model = ir.load(target / file)
    expected = change(model.graph)
    ir.save(model, target / file)
    manifest["files"][file] = hashlib.sha256((target / file).read_bytes()).hexdigest()
    (target / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(target), expected


@pytest.mark.parametrize(
    "change",
    [a_wrong_scale, a_wrong_zero, a_wrong_range, a_wrong_exponent, a_missing_division],
)
def test_a_planted_fault_is_named(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path, change: Change
) -> None:
    bundle, expected = with_change(folder / "int8", tmp_path / "bundle", change)
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines(PIPELINE), prompt=PROMPT)
    numbers = next(rung for rung in parity.rungs if rung.name == "integers and scales")
    assert len(numbers.failures) >= 1
    assert re.search(expected, numbers.failures[0]), numbers.failures


def test_a_fault_that_rounding_hides_is_seen_without_rounding(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    def a_bias_that_is_slightly_off(graph: ir.Graph) -> str:
        value = next(v for n, v in graph.initializers.items() if n.endswith(".bias"))
        _set(value, _array(value) + np.float32(1e-3))
        return ""

    bundle, _ = with_change(folder / "int8", tmp_path / "bundle", a_bias_that_is_slightly_off)
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines(PIPELINE), prompt=PROMPT)
    passed = {rung.name: rung.passed for rung in parity.rungs}
    assert passed["onnxruntime on cpu in int8"]
    assert not passed["without rounding, onnxruntime on cpu"]


@pytest.mark.parametrize("ending", [".scale", FACTORS])
def test_bisecting_names_the_layer(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path, ending: str
) -> None:
    changed = set[str]()

    def twice_as_much_in_the_middle(graph: ir.Graph) -> str:
        names = [n for n in graph.initializers if n.endswith(ending)]
        value = graph.initializers[names[len(names) // 2]]
        changed.update(layers_after(value))
        _set(value, _array(value) * 2)
        return ""

    bundle, _ = with_change(folder / "int8", tmp_path / "bundle", twice_as_much_in_the_middle)
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines(PIPELINE), prompt=PROMPT, bisect=True)
    found = re.search("the first layer that is off is '(.*?)'", " ".join(parity.blocks))
    assert found is not None, parity.blocks
    assert found[1] in changed


def layers_after(value: ir.Value) -> set[str]:
    """The first ones that multiply with what is made of a value."""
    found = set[str]()
    for node in value.consumers():
        if node.op_type in CHANNELS:
            assert node.inputs[1] is not None
            found.add(layer_of((node.inputs[1].name or "").removesuffix("/rounded")))
        else:
            found |= layers_after(node.outputs[0])
    return found


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
        "the quantisation plan was calibrated on the calls of another SubNet",
        "export", pipelines(PIPELINE), folder / "given.json", "-o", tmp_path / "out",
        "--quantisation", folder / "int8.quantisation.json",
    )  # fmt: skip


def test_int8_without_a_plan_is_refused(
    folder: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    refused(
        "there is no quantisation plan",
        "export", pipelines(PIPELINE), folder / "given.json", "-o", tmp_path / "out",
        "--precision", "int8",
    )  # fmt: skip
