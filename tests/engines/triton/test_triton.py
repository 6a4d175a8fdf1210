"""A bundle as a model of Triton: the configuration as Triton's own protobuf reads it, and the model's answers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError
from engines.runner import Result, Runner
from engines.triton.repository import TritonModel, config_of, write_model
from exporter.bundle import Bundle
from tests.command_line import Places, ok, require_refused
from tests.engines.triton import backend_utils

ARGS = {"model_instance_kind": "CPU", "model_instance_device_id": "0", "model_version": "1",
        "model_name": "pair", "model_repository": "unused"}  # fmt: skip


def request(**columns: list[Any]) -> backend_utils.InferenceRequest:
    """As Triton hands it over: a row per picture, texts as objects that are bytes."""
    types = {"GUIDANCE_SCALE": np.float32, "SEED": np.uint32}
    return backend_utils.InferenceRequest(
        [
            backend_utils.Tensor(name, np.array([[v] for v in values], types.get(name, np.object_)))
            for name, values in columns.items()
        ]
    )


@pytest.fixture(scope="module")
def repository(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "models"
    told = json.loads(ok("triton", pair, "-o", out, "--json", "--threads", 1))
    assert told == {"model": "pair", "path": str(out / "pair")}
    return out


@pytest.fixture(scope="module")
def module(repository: Path) -> Iterator[ModuleType]:
    """The repository's own file, loaded as Triton loads it: beside the bundle, with its utilities."""
    spec = importlib.util.spec_from_file_location("model", repository / "pair" / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", backend_utils)
        spec.loader.exec_module(found)
        yield found


@pytest.fixture
def model(module: ModuleType) -> Iterator[Any]:
    given = {"engine": "onnxruntime", "options": '{"threads": 1}', "height": "24", "width": "24"}
    config = {"parameters": {name: {"string_value": value} for name, value in given.items()}}
    made = module.TritonPythonModel()
    made.initialize({**ARGS, "model_config": json.dumps(config)})
    yield made
    made.finalize()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The seeds of every run."""
    seeds: list[object] = []
    original = Runner.run

    def run(runner: Runner, prompt: str, **given: Any) -> Result:
        seeds.append(given["seed"])
        return original(runner, prompt, **given)

    monkeypatch.setattr(Runner, "run", run)
    return seeds


def test_equal_rows_of_all_requests_share_runs_and_each_has_its_own_picture(
    model: Any, pair: Path, counted: list[object]
) -> None:
    asked = [
        request(PROMPT=[b"red", b"blue"], SEED=[0, 1], GUIDANCE_SCALE=[3.0, 5.0]),
        request(PROMPT=[b"red"], SEED=[2], GUIDANCE_SCALE=[3.0], NEGATIVE_PROMPT=[b""]),
        request(PROMPT=[b"red"], SEED=[4], GUIDANCE_SCALE=[3.0]),
    ]
    responses = model.execute(asked)
    assert [each.error for each in responses] == [None] * 3
    assert counted == [[0, 2], 4, 1], "red twice in one run and once alone, blue alone"
    runner = Runner(Bundle.open(pair), make_engine("onnxruntime", "cpu"))
    rows = [("red", 0, 3), ("blue", 1, 5), ("red", 2, 3), ("red", 4, 3)]
    expected = [runner.run(text, seed=s, guidance=g).images[0] for text, s, g in rows]
    found = np.concatenate([each.output_tensors[0].as_numpy() for each in responses])
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.stack(expected)).max() <= 1
    assert np.abs(found[0].astype(int) - expected[2]).max() > 1, "the comparison sees another seed"


def test_a_picture_without_a_seed_is_told_the_one_it_got(model: Any, counted: list[object]) -> None:
    [response] = model.execute([request(PROMPT=[b"red", "ü".encode()])])
    seeds = response.output_tensors[1]
    assert seeds.name() == "SEED"
    assert counted == seeds.as_numpy()[:, 0].tolist()
    assert seeds.as_numpy().dtype == np.uint32


def test_a_request_that_cannot_be_made_is_refused_alone(model: Any) -> None:
    good = request(PROMPT=[b"red"], SEED=[1])
    responses = model.execute(
        [request(PROMPT=[b"red"], GUIDANCE_SCALE=[1.0]), good, request(PROMPT=[b"\xff"])]
    )
    assert [each.error is None for each in responses] == [False, True, False]
    assert "guidance 1.0 switches guidance off" in responses[0].error.message()
    assert responses[0].error.message().endswith("; leave GUIDANCE_SCALE out")
    assert responses[2].error.message() == "PROMPT is not UTF-8; send UTF-8 text"
    assert responses[1].output_tensors[0].as_numpy().shape == (1, 24, 24, 3)


def test_a_run_that_fails_is_told_to_those_who_wait_for_it(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Runner.run

    def run(runner: Runner, prompt: str, **given: Any) -> Result:
        if prompt == "bad":
            msg = "call 1 gave a value that is not finite"
            raise EngineError(msg)
        return original(runner, prompt, **given)

    monkeypatch.setattr(Runner, "run", run)
    bad, good = model.execute([request(PROMPT=[b"bad"]), request(PROMPT=[b"good"])])
    assert bad.error.message() == "call 1 gave a value that is not finite"
    assert good.error is None


@pytest.mark.parametrize(
    ("visible", "number", "seen"), [(None, "1", "1"), ("4,6", "1", "6"), ("3", "0", "3")]
)
def test_an_instance_sees_its_own_gpu_alone(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, visible: str | None, number: str, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    module.use_gpu(number)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_what_cannot_be_a_model_is_refused(repository: Path, pair: Path, tmp_path: Path) -> None:
    places = Places(tmp_path, {"pair": pair, "repository": repository, "out": tmp_path / "out"})
    require_refused("triton {pair} -o {repository}", "exists; remove it or choose", places)
    for name in ("a/b", ".", ".."):
        refused = f"the model's name is {name!r}"
        require_refused(f"triton {{pair}} -o {{out}} --name {name}", refused, places)
    require_refused("triton {pair} -o {out} --height 8", "24 x 24", places)
    line = "triton {pair} -o {out} --engine openvino --device cuda"
    require_refused(line, "openvino runs on cpu", places)


@pytest.mark.slow  # fetches the definition of the configuration from the index
def test_the_configuration_is_one_that_triton_reads(
    repository: Path, pair: Path, tmp_path: Path
) -> None:
    definition = triton_definition(tmp_path)
    from google.protobuf import json_format, text_format

    written = (repository / "pair" / "config.pbtxt").read_text()
    config = text_format.Parse(written, definition.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("pair", "python", 2)
    assert [each.name for each in config.input if not each.optional] == ["PROMPT"]
    assert list(config.output[0].dims) == [24, 24, 3]
    assert list(config.dynamic_batching.preferred_batch_size) == [2]
    gpu = TritonModel("x", "onnxruntime", "cuda", EngineOptions(threads=3), instances=2)
    config = text_format.Parse(config_of(Bundle.open(pair), gpu), definition.ModelConfig())
    [group] = config.instance_group
    assert (group.count, group.kind) == (2, definition.ModelInstanceGroup.KIND_GPU)
    told = json_format.MessageToDict(config, preserving_proto_field_name=True)["parameters"]
    assert json.loads(told["options"]["string_value"]) == {"threads": 3}
    with pytest.raises(text_format.ParseError):
        text_format.Parse(written + "\nimages: 2", definition.ModelConfig())


def triton_definition(folder: Path) -> ModuleType:
    """`model_config.proto`, as NVIDIA's client package brings it compiled; the rest of that stays out."""
    line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*line, "tritonclient==2.73.0"], check=True)
    [wheel] = folder.glob("tritonclient-*.whl")
    with zipfile.ZipFile(wheel) as file:
        path = file.extract("tritonclient/grpc/model_config_pb2.py", folder)
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_several_models_fit_into_a_repository(repository: Path, pair: Path) -> None:
    write_model(Bundle.open(pair), TritonModel("other"), repository)
    assert {"pair", "other"} <= {each.name for each in repository.iterdir()}
