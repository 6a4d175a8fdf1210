"""An engine is one file and one record: everything that lists, refuses, estimates or makes engines follows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engines import kinds
from engines.base import DEFAULTS, EngineOptions, Form, Report, Session, make_engine
from engines.buffers import Buffers, NumpyBuffers
from engines.build import plan_build
from engines.builder import BuildJob, build_here
from engines.built import built_file, record_of, source_of
from engines.doctor import examine
from engines.errors import EngineError
from engines.kinds import ENGINES, EngineKind, Rates, engine_kind, engine_names, takers
from engines.runner import Runner
from exporter import graph
from exporter.bundle import Bundle
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

RECORD = EngineKind(
    name="toy",
    classes={"cpu": "toy_engine:Toy"},
    package="toy_library",
    install="pip install toy-library",
    options={"cpu": ("threads",)},
    rates=Rates(1000, 0, 0, 1),
    notes={"cpu": "plays"},
)


class ToySession:
    """One graph in ONNX Runtime, in the plainest way."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs: Mapping[str, Form] = self._forms(self._session.get_inputs())
        self.outputs: Mapping[str, Form] = self._forms(self._session.get_outputs())

    def _forms(self, ports: list[Any]) -> dict[str, Form]:
        dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        return {port.name: (tuple(port.shape), np.dtype(dtypes[port.type])) for port in ports}

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], None]:
        def run() -> None:
            found = self._session.run(list(self.outputs), {n: inputs[n] for n in self.inputs})
            for name, value in zip(self.outputs, found, strict=True):
                outputs[name][...] = value

        return run


class Toy:
    """The file of an engine: its graphs built are their paths, and its library is a module without content."""

    name, suffix = "toy", ".toy"

    def __init__(self, device: str, options: EngineOptions = DEFAULTS) -> None:
        self.device, self.options = device, options
        self.buffers: Buffers = NumpyBuffers()

    def key(self) -> dict[str, str]:
        return {"library": "toy 1"}

    def build(self, graph: Path, out: Path, report: Report) -> None:
        report("play", 0.5)
        out.write_text(str(graph))

    def load(self, graph: Path, built: Path | None = None) -> Session:
        return ToySession(graph if built is None else Path(built.read_text()))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's file and its library can be imported, and its record is in the list."""
    file = ModuleType("toy_engine")
    file.Toy = Toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_engine", file)
    monkeypatch.setitem(sys.modules, "toy_library", ModuleType("toy_library"))
    monkeypatch.setattr(kinds, "ENGINES", (*ENGINES, RECORD))


@pytest.fixture
def bundle(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    return make_bundle("learned-variance", search(opened, "full", Options(steps=3)))


def test_a_bundle_runs_with_it(toy: None, bundle: Bundle) -> None:
    expected = Runner(bundle, make_engine("onnxruntime", "cpu")).run("7", seed=1)
    found = Runner(bundle, make_engine("toy", "cpu")).run("7", seed=1)
    np.testing.assert_allclose(found.latents, expected.latents, rtol=1e-4, atol=1e-5)


def test_its_estimates_are_those_of_its_record_and_what_it_built_is_used(
    toy: None, bundle: Bundle, tmp_path: Path
) -> None:
    made = make_engine("toy", "cpu")
    items = plan_build(bundle, made).items
    assert [item.seconds for item in items] == [1000.0] * len(bundle.models)
    graph = bundle.conditioner
    record = record_of(bundle, made, graph)
    record.parent.mkdir(parents=True, exist_ok=True)
    source = source_of(bundle, made, graph)
    job = BuildJob("toy", "cpu", DEFAULTS, bundle.path / graph, ".toy", record, source)
    build_here(job, lambda *_: None)
    found = built_file(bundle, made, graph)
    assert found is not None
    assert found.read_text() == str(bundle.path / graph)
    assert made.load(bundle.path / bundle.decoder, found).inputs.keys() != {}


def test_the_doctor_the_help_and_the_refusals_know_it(toy: None) -> None:
    findings = {finding.name: finding for finding in examine()}
    assert findings["toy on cpu"].works
    assert findings["toy on cpu"].detail == "plays"
    assert "toy on cuda" not in findings
    assert "toy" in takers("threads")
    assert "toy" in engine_names()
    with pytest.raises(EngineError, match=r"choose one of .*toy"):
        make_engine("magic", "cpu")
    with pytest.raises(EngineError, match="toy runs on cpu, not on 'cuda'; give --device cpu"):
        make_engine("toy", "cuda")
    with pytest.raises(
        EngineError, match="toy on cpu does not take --precision; it takes --threads"
    ):
        make_engine("toy", "cpu", EngineOptions(precision="float16"))


def test_without_its_library_it_says_how_to_get_it(
    toy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "toy_library", None)
    with pytest.raises(
        EngineError, match=r"toy-library is not installed .*; pip install toy-library"
    ):
        make_engine("toy", "cpu")


@pytest.mark.parametrize("version", ["1.20.1", "0.99"])
def test_a_library_that_is_too_old_is_refused_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    words = rf"this is onnxruntime {version}, .*opset 23\) need 1\.23 or newer; pip install \"onnxruntime-gpu>=1\.31\""
    with pytest.raises(EngineError, match=words):
        make_engine("onnxruntime", "cpu")
    (finding,) = (each for each in examine() if each.name == "onnxruntime on cpu")
    assert not finding.works
    assert version in finding.detail


@pytest.mark.parametrize("kind", ENGINES, ids=lambda each: each.name)
def test_each_record_is_true(kind: EngineKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of options that there are, a device for each, and a library that is asked for before its file."""
    known = {field.name for field in fields(EngineOptions)}
    assert set(kind.options) == set(kind.classes)
    assert all(set(options) <= known for options in kind.options.values())
    assert set(kind.notes) <= set(kind.classes)
    monkeypatch.setitem(sys.modules, kind.package, None)
    for device in kind.classes:
        with pytest.raises(EngineError, match="is not installed"):
            make_engine(kind.name, device)


def test_each_option_is_taken_by_an_engine_and_explained() -> None:
    for field in fields(EngineOptions):
        assert takers(field.name), field.name
        assert field.metadata["help"]


def test_a_record_is_found_by_its_name() -> None:
    assert engine_kind("openvino").name == "openvino"
    assert replace(engine_kind("openvino"), name="x").rates == engine_kind("openvino").rates


def test_the_opset_is_that_of_the_exporter_and_the_version_that_of_the_readme() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert graph.OPSET == kinds.OPSET
    oldest = ".".join(map(str, engine_kind("onnxruntime").oldest))
    assert f'"onnxruntime>={oldest}"' in readme.read_text(encoding="utf-8")
