"""The verdict: it holds for what was exported, and fails, naming the step, for what was tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.base import make_engine
from engines.parity import Parity, Pictures, psnr, relative_l2, verify
from engines.report import verdict, write_report
from exporter.bundle import Bundle, sha256
from search.errors import SearchError
from search.liveness import unroll
from search.methods import search
from search.model.pipeline import open_pipeline
from search.options import Options
from search.schedules import with_actions
from search.subnet import Action

PROMPT = "a small red circle left on a grey field"


@pytest.fixture(scope="module")
def cached(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    return make_bundle("shapes-sd", search(opened, "deepcache", Options(steps=10, interval=5)))


@pytest.fixture
def copy(cached: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(cached.path, tmp_path / "bundle")


def check(bundle: Path, pipeline: Path, *, bisect: bool = False) -> tuple[Parity, Pictures]:
    engine = make_engine("onnxruntime", "cpu")
    return verify(Bundle.open(bundle), [engine], pipeline, prompt=PROMPT, seed=3, bisect=bisect)


def variant(bundle: Path) -> dict[str, Any]:
    """What the manifest of a bundle says about its one variant."""
    (only,) = json.loads((bundle / "manifest.json").read_text())["variants"]
    return dict(only)


def resign(bundle: Path, **changes: object) -> None:
    """Change the one variant, and make the checksums right again, so that only parity can notice."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text()) | {"variants": [variant(bundle) | changes]}
    data["files"] = {name: sha256(bundle / name) for name in data["files"]}
    path.write_text(json.dumps(data))


def plant_in_weights(
    bundle: Path, graph: str, name: str, change: Callable[[np.ndarray], None]
) -> None:
    """Change one tensor of the weights file, found through a graph that reads it."""
    model = onnx.load(bundle / graph, load_external_data=False)
    tensor = next(i for i in model.graph.initializer if i.name == name)
    place = {e.key: e.value for e in tensor.external_data}
    values = np.memmap(
        bundle / "weights.bin", np.float32, "r+", int(place["offset"]), tuple(tensor.dims)
    )
    change(values)
    values.flush()
    del values
    resign(bundle)


def test_parity_holds_for_an_untouched_bundle(
    cached: Bundle, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    parity, pictures = check(cached.path, pipelines("shapes-sd"))
    assert parity.passed
    assert [call.step for call in parity.calls] == list(range(10))
    assert max(call.worst[1] for call in parity.calls) < 1e-4
    assert set(parity.calls[0].forced) == {"noise_prediction", "up_blocks.3.attentions.1:0"}
    assert parity.psnr > 50
    page = write_report(tmp_path, cached, parity, pictures)
    text = page.read_text()
    assert "Parity holds" in text
    assert text.count("data:image/png;base64,") == 4
    assert text.count("<svg") == 2
    assert "http://" not in text.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is True


@pytest.mark.gpu
def test_parity_holds_on_cuda(cached: Bundle, pipelines: Callable[[str], Path]) -> None:
    engine = make_engine("onnxruntime", "cuda")
    parity, _ = verify(cached, [engine], pipelines("shapes-sd"), prompt=PROMPT, seed=3)
    assert parity.device == "cuda"
    assert parity.passed, parity.failures


def test_a_wrong_weight_is_caught_and_its_step_named(
    copy: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    def enlarge(values: np.ndarray) -> None:
        values[0] *= 1.05

    # A deep weight: only the full steps, 0 and 5, read it.
    plant_in_weights(copy, "step_000.onnx", "denoiser.up_blocks.2.resnets.0.conv1.weight", enlarge)
    parity, pictures = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert "call 0 (step 0, timestep 901, step_000.onnx)" in parity.failures[0]
    assert "call 5 (step 5" in parity.failures[1]
    assert not any("call 1 " in failure for failure in parity.failures)
    assert verdict(parity).startswith("Parity FAILS")
    page = write_report(tmp_path, Bundle.open(copy), parity, pictures)
    assert "call 0 (step 0, timestep 901" in page.read_text()


def test_a_wrong_decoder_is_caught(copy: Path, pipelines: Callable[[str], Path]) -> None:
    def enlarge(values: np.ndarray) -> None:
        values[...] *= 1.05

    plant_in_weights(copy, "decode.onnx", "vae.decoder.conv_out.weight", enlarge)
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert [f for f in parity.failures if "the picture decoded from" in f] == list(parity.failures)


def test_a_weight_that_is_not_a_number_is_caught_and_its_step_named(
    copy: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    def spoil(values: np.ndarray) -> None:
        values[0] = np.nan

    plant_in_weights(copy, "step_000.onnx", "denoiser.mid_block.resnets.0.conv1.weight", spoil)
    parity, pictures = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert "call 0 (step 0" in parity.failures[0]
    assert "noise prediction is not finite after call 0 (step 0" in parity.failures[-1]
    write_report(tmp_path, Bundle.open(copy), parity, pictures)


def test_a_wrong_coefficient_is_caught(copy: Path, pipelines: Callable[[str], Path]) -> None:
    sampler = variant(copy)["sampler"]
    sampler["inputs"][6][0] *= 1.02
    resign(copy, sampler=sampler)
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert "the final latents differ" in parity.failures[-1]
    assert parity.calls[5].free < 1e-4 < parity.calls[6].free


def test_a_stale_cache_is_caught(copy: Path, pipelines: Callable[[str], Path]) -> None:
    """Step 5 writes its cache to a buffer that nobody reads: step 6 on sees the one of step 0."""
    data = variant(copy)
    data["slots"].append(data["slots"][0])
    calls = data["calls"]
    calls[5]["writes"] = {name: len(data["slots"]) - 1 for name in calls[5]["writes"]}
    resign(copy, calls=calls, slots=data["slots"])
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert parity.calls[6].free < 1e-4 < parity.calls[7].free


@pytest.fixture(scope="module")
def adding(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    """Every second step adds the residual of one block; the last full step's is read by nobody."""
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    whole = search(opened, "full", Options(steps=7))
    return make_bundle(
        "shapes-dit",
        with_actions(
            whole, lambda t, b: Action.DELTA if b == 5 and t % 2 else Action.RUN, method="adding"
        ),
    )


def check_label(bundle: Path, pipeline: Path) -> Parity:
    engine = make_engine("onnxruntime", "cpu")
    return verify(Bundle.open(bundle), [engine], pipeline, prompt="red circle", seed=3)[0]


def test_parity_holds_for_residuals(adding: Bundle, pipelines: Callable[[str], Path]) -> None:
    assert len(adding.graphs) == 2
    parity = check_label(adding.path, pipelines("shapes-dit"))
    assert parity.passed, parity.failures
    compared = [set(call.forced) - {"noise_prediction"} for call in parity.calls]
    residual = {"transformer_blocks.5:residual"}
    assert compared == [residual, set(), residual, set(), residual, set(), set()]
    assert adding.calls[-1].writes.keys() == residual, "written, though nobody reads it"


def test_parity_holds_for_skips_and_for_a_value_that_comes_back(
    pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]
) -> None:
    """Block 5 skipped, run, and skipped again while its input is held; block 2 never runs."""
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    whole = search(opened, "full", Options(steps=6))
    gates = {(t, 4): Action.REUSE for t in (2, 3, 4)} | {(t, 2): Action.SKIP for t in range(6)}
    gates |= {(2, 5): Action.SKIP, (4, 5): Action.SKIP, (5, 5): Action.REUSE}
    subnet = with_actions(whole, lambda t, b: gates.get((t, b), Action.RUN), method="skipping")
    held = [row[whole.topology.ports_of[5][0]] for row in unroll(subnet).effective]
    assert held[2] == held[4] == held[5] != held[3]
    bundle = make_bundle("shapes-dit", subnet)
    parity = check_label(bundle.path, pipelines("shapes-dit"))
    assert parity.passed, parity.failures
    assert parity.latents < 1e-4


def test_a_stale_residual_is_caught(
    adding: Bundle, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """Step 2 writes its residual to a buffer that nobody reads: step 3 adds the one of step 0."""
    copy = shutil.copytree(adding.path, tmp_path / "bundle")
    data = variant(copy)
    data["slots"].append(data["slots"][0])
    calls = data["calls"]
    calls[2]["writes"] = dict.fromkeys(calls[2]["writes"], len(data["slots"]) - 1)
    resign(copy, calls=calls, slots=data["slots"])
    parity = check_label(copy, pipelines("shapes-dit"))
    assert not parity.passed
    assert parity.calls[3].free < 1e-4 < parity.calls[4].free


def test_a_wrong_row_of_the_table_is_caught_and_its_step_named(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    shallow = onnx.load(copy / "step_001.onnx", load_external_data=False).graph
    read = next(v.name for v in shallow.input if v.name.startswith("timestep/"))
    table = read.replace("timestep/", "table/")

    def enlarge(values: np.ndarray) -> None:
        values[3] *= 1.5  # an addition would be lost in the normalisation of groups

    plant_in_weights(copy, "prologue.onnx", table, enlarge)
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert [call.call for call in parity.calls if call.worst[1] > 1e-4] == [3]
    assert "call 3 (step 3" in parity.failures[0]


def test_a_wrong_residual_is_caught_and_its_call_named(
    adding: Bundle, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """The subtraction the other way round."""
    copy = shutil.copytree(adding.path, tmp_path / "bundle")
    model = onnx.load(copy / "step_000.onnx", load_external_data=False)
    node = next(n for n in model.graph.node if n.output[0].endswith(":residual"))
    assert node.op_type == "Sub"
    node.input[:] = reversed(node.input)
    onnx.save(model, copy / "step_000.onnx")
    resign(copy)
    parity = check_label(copy, pipelines("shapes-dit"))
    assert "call 0 (step 0" in parity.failures[0]
    assert "'transformer_blocks.5:residual' differs by 2.00e+00" in parity.failures[0]


def test_another_pipeline_is_refused(cached: Bundle, pipelines: Callable[[str], Path]) -> None:
    with pytest.raises(SearchError, match="the SubNet was made for"):
        check(cached.path, pipelines("three-levels"))


def test_constants_of_a_graph_are_not_weights(cached: Bundle) -> None:
    """What is left inside a step graph is shapes and scales."""
    model = onnx.load(cached.path / "step_000.onnx", load_external_data=False)
    inside = [i for i in model.graph.initializer if not i.external_data]
    assert sum(numpy_helper.to_array(i).nbytes for i in inside) < 20_000


def test_relative_l2_and_psnr_are_what_they_say() -> None:
    assert relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == pytest.approx(4 / 3)
    assert np.isnan(relative_l2(np.array([np.nan]), np.array([1.0])))
    flat = np.full((2, 2, 3), 100, np.uint8)
    assert psnr(flat, flat) == np.inf
    assert psnr(flat + 1, flat) == pytest.approx(48.13, abs=0.01)
