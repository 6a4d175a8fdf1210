"""The verdict: it holds for what was exported, and fails, naming the step, for what was tampered with."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tokenizers import Tokenizer

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import Parity, ParityPictures, Rung, psnr, relative_l2, verify
from engines.report import verdict, write_report
from exporter.bundle import Bundle
from exporter.exporting import export
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.files import sha256
from search.core.liveness import unroll
from search.core.names import GUIDANCE
from search.core.subnet import Granularity
from search.core.table import with_actions
from search.core.topology import port_of
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.search.model.test_removed import REMOVED, make

PROMPT = "a small red circle left on a grey field"


@pytest.fixture(scope="module")
def cached(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    return make_bundle("shapes-sd", search(opened, "deepcache", Options(steps=10, interval=5)))


@pytest.fixture
def copy(cached: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(cached.path, tmp_path / "bundle")


def check(
    bundle: Path,
    pipeline: Path,
    *,
    bisect: bool = False,
    negative: str = "",
    guidance: float | None = None,
) -> tuple[Parity, ParityPictures]:
    return verify(
        Bundle.open(bundle),
        [make_engine("onnxruntime", "cpu")],
        pipeline,
        prompt=PROMPT,
        negative=negative,
        guidance=guidance,
        seed=3,
        bisect=bisect,
    )


def top(parity: Parity) -> Rung:
    """The engine's rung."""
    return parity.rungs[-1]


def first_off_on_its_way(rung: Rung) -> int:
    """The first call whose input is off when the engine follows its own trajectory."""
    return next(c.call for c in rung.calls if c.free is not None and not c.free.passed)


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


def timestep_table(bundle: Path) -> str:
    """The initializer of the prologue with one row per timestep that the shallow graph reads."""
    shallow = onnx.load(bundle / "step_001.onnx", load_external_data=False).graph
    read = next(v.name for v in shallow.input if v.name.startswith("timestep/"))
    return read.replace("timestep/", "table/")


def test_parity_holds_for_an_untouched_bundle(
    cached: Bundle, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    parity, pictures = check(cached.path, pipelines("shapes-sd"))
    assert parity.passed, parity.failures
    manifest, plain, rung = parity.rungs
    assert (manifest.name, manifest.failures) == ("manifest", ())
    assert (plain.name, plain.against) == (
        "gated PyTorch, every block run",
        "diffusers' own pipeline",
    )
    assert [each.relative for call in plain.calls for each in call.forced.values()] == [0] * 10
    assert (rung.name, rung.precision, rung.repeats) == ("onnxruntime on cpu", "float32", True)
    assert [call.step for call in rung.calls] == list(range(10))
    assert set(rung.calls[0].forced) == {"noise_prediction", "up_blocks.3.attentions.1:0"}
    assert all(2**-24 <= each.floor < 1e-4 for call in rung.calls for each in call.forced.values())
    assert rung.psnr > 50
    assert parity.quality < 50, "what the SubNet leaves out is seen, and is no part of parity"
    page = write_report(tmp_path, cached, parity, pictures)
    text = page.read_text()
    assert "Parity holds" in text
    assert text.count("data:image/png;base64,") == 4
    assert text.count("<svg") == 2, "errors and the grid"
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is True


@pytest.mark.gpu
def test_parity_holds_on_cuda(cached: Bundle, pipelines: Callable[[str], Path]) -> None:
    engine = make_engine("onnxruntime", "cuda")
    parity, _ = verify(cached, [engine], pipelines("shapes-sd"), prompt=PROMPT, seed=3)
    assert [rung.name for rung in parity.engines] == ["onnxruntime on cpu", "onnxruntime on cuda"]
    assert parity.passed, parity.failures


def test_a_wrong_weight_is_caught_and_its_step_named(
    copy: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    def enlarge(values: np.ndarray) -> None:
        values[0] *= 1.05

    # A deep weight: only the full steps, 0 and 5, read it.
    plant_in_weights(copy, "step_000.onnx", "denoiser.up_blocks.2.resnets.0.conv1.weight", enlarge)
    (copy / f".bisect-{platform.node()}-{2**30}.x.onnx").touch()
    parity, pictures = check(copy, pipelines("shapes-sd"), bisect=True)
    assert not parity.passed
    assert parity.manifest.failures == (), "the manifest is right"
    assert "call 0 (step 0, timestep 901, step_000.onnx)" in parity.failures[0]
    off = [c.call for c in top(parity).calls if not c.worst[1].passed]
    assert off == [0, 5], "the calls that read it"
    (found,) = parity.blocks
    assert "call 0 (step 0, timestep 901, step_000.onnx): the first block that is off" in found
    assert "is 'up_blocks.2.attentions.0'" in found, "the block at branch granularity it belongs to"
    assert "20 before it are right, up to 'up_blocks.1.upsamplers.0'" in found
    assert not list(copy.glob(".bisect*")), (
        "nothing is left in the bundle, not even by a process that is gone"
    )
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
    assert len(parity.failures) == 1


def test_a_weight_that_is_not_a_number_is_caught_and_its_step_named(
    copy: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    def spoil(values: np.ndarray) -> None:
        values[0] = np.nan

    plant_in_weights(copy, "step_000.onnx", "denoiser.mid_block.resnets.0.conv1.weight", spoil)
    parity, pictures = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert "call 0 (step 0" in parity.failures[0]
    assert any("noise prediction is not finite after call 0 (step 0" in f for f in parity.failures)
    assert not any("the final latents differ" in f for f in parity.failures), "there are none"
    write_report(tmp_path, Bundle.open(copy), parity, pictures)


def test_a_wrong_coefficient_is_caught(copy: Path, pipelines: Callable[[str], Path]) -> None:
    sampler = variant(copy)["sampler"]
    sampler["inputs"][6][0] *= 1.02
    resign(copy, sampler=sampler)
    parity, _ = check(copy, pipelines("shapes-sd"), bisect=True)
    (named,) = parity.manifest.failures
    assert named.startswith(
        "the sampler's coefficient of known value 0 for the input of call 6 (step 6)"
    )
    assert first_off_on_its_way(top(parity)) == 6
    assert "call 6 (step 6" in top(parity).failures[0]
    assert (
        "on its own trajectory, the denoiser's input 'sample' differs from here on"
        in top(parity).failures[0]
    )
    assert "so no block is off" in parity.blocks[0]


def test_a_stale_cache_is_caught(copy: Path, pipelines: Callable[[str], Path]) -> None:
    """Step 5 writes its cache to a buffer that nobody reads: step 6 on sees the one of step 0."""
    data = variant(copy)
    data["slots"].append(data["slots"][0])
    calls = data["calls"]
    calls[5]["writes"] = {name: len(data["slots"]) - 1 for name in calls[5]["writes"]}
    resign(copy, calls=calls, slots=data["slots"])
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert parity.manifest.failures[0] == (
        "call 6 (step 6) reads 'up_blocks.3.attentions.1:0' from slot 0, which then holds "
        "'up_blocks.3.attentions.1:0' of step 0; the SubNet asks for "
        "'up_blocks.3.attentions.1:0' of step 5"
    )
    assert first_off_on_its_way(top(parity)) == 7


def test_state_that_a_call_leaves_behind_is_seen_in_the_second_pass(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    """Step 1 reads a slot that nobody writes: zeros at first, then what the given inputs left."""
    data = variant(copy)
    data["slots"].append(data["slots"][0])
    calls = data["calls"]
    calls[1]["reads"] = {name: len(data["slots"]) - 1 for name in calls[1]["reads"]}
    resign(copy, calls=calls, slots=data["slots"])
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert "which then holds nothing" in parity.manifest.failures[0]
    assert not top(parity).repeats
    assert (
        "the second pass is not bit for bit the first (on its own trajectory)"
        in top(parity).notes[0]
    )


def bake(bundle: Path, file: str, name: str, value: np.ndarray) -> None:
    """Let a graph compute with a constant in the place of one of its inputs."""
    model = onnx.load(bundle / file, load_external_data=False)
    for node in model.graph.node:
        node.input[:] = ["baked" if each == name else each for each in node.input]
    model.graph.initializer.append(numpy_helper.from_array(value, "baked"))
    onnx.save(model, bundle / file)
    resign(bundle)


def input_form(file: Path, name: str) -> tuple[list[int], np.dtype[Any]]:
    """Shape and dtype of a graph's input."""
    graph = onnx.load(file, load_external_data=False).graph
    (found,) = (each.type.tensor_type for each in graph.input if each.name == name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(found.elem_type)
    return [each.dim_value for each in found.shape.dim], dtype


def test_a_guidance_scale_that_is_baked_in_is_caught_with_another_scale_only(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    bundle = Bundle.open(copy)
    for file in bundle.graphs:
        shape, dtype = input_form(copy / file, GUIDANCE)
        bake(copy, file, GUIDANCE, np.full(shape, bundle.guidance, dtype))
    assert check(copy, pipelines("shapes-sd"))[0].passed
    parity, _ = check(copy, pipelines("shapes-sd"), guidance=3.0)
    assert parity.guidance == 3.0
    assert "call 0 (step 0, timestep 901, step_000.onnx): 'noise_prediction'" in parity.failures[0]


def test_a_negative_prompt_that_is_not_read_is_caught_with_one_only(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    bundle = Bundle.open(copy)
    (negative,) = (each for each in bundle.prompt_inputs if each.source == "negative")
    tokens = Tokenizer.from_file(str(bundle.file(negative.tokenizer))).encode("").ids
    form = input_form(copy / bundle.conditioner, negative.name)
    bake(copy, bundle.conditioner, negative.name, np.array(tokens, form[1]).reshape(form[0]))
    assert check(copy, pipelines("shapes-sd"))[0].passed
    parity, _ = check(copy, pipelines("shapes-sd"), negative="blue square")
    assert parity.negative == "blue square"
    assert "call 0 (step 0, timestep 901, step_000.onnx): 'up_blocks" in parity.failures[0]


def test_parity_holds_with_a_negative_prompt_and_another_scale(
    cached: Bundle, pipelines: Callable[[str], Path]
) -> None:
    parity, _ = check(cached.path, pipelines("shapes-sd"), negative="blue square", guidance=3.0)
    assert parity.failures == ()


def test_inputs_that_a_run_refuses_are_refused(
    adding: Bundle, cached: Bundle, pipelines: Callable[[str], Path]
) -> None:
    with pytest.raises(EngineError, match="is class-conditional, so it takes no negative prompt"):
        check(adding.path, pipelines("shapes-dit"), negative="blue")
    with pytest.raises(EngineError, match="switches guidance off"):
        check(cached.path, pipelines("shapes-sd"), guidance=1.0)


@pytest.fixture(scope="module")
def holding(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Bundle:
    """Two caches of one shape, both read at every second step."""
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    whole = search(opened, "full", Options(steps=6))
    reused = with_actions(
        whole,
        lambda t, b: Action.DELTA if b in (2, 5) and t % 2 else Action.RUN,
        method="two residuals",
    )
    return make_bundle("shapes-dit", reused)


def test_swapped_caches_are_caught_and_named(
    holding: Bundle, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(holding.path, tmp_path / "bundle")
    calls = variant(copy)["calls"]
    (first, one), (second, other) = calls[3]["reads"].items()
    calls[3]["reads"] = {first: other, second: one}
    resign(copy, calls=calls)
    parity = check_label(copy, pipelines("shapes-dit"))
    assert len(parity.manifest.failures) == 2
    assert f"call 3 (step 3) reads {first!r} from slot {other}" in parity.manifest.failures[0]
    assert f"which then holds {second!r} of step 2" in parity.manifest.failures[0]
    assert first_off_on_its_way(top(parity)) == 4


def test_not_a_number_at_one_step_is_caught_and_named(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    """In one row of the table that the prologue gives to one call."""

    def spoil(values: np.ndarray) -> None:
        values[3] = np.nan

    plant_in_weights(copy, "prologue.onnx", timestep_table(copy), spoil)
    parity, _ = check(copy, pipelines("shapes-sd"), bisect=True)
    assert [call.call for call in top(parity).calls if not call.worst[1].passed] == [3]
    assert "call 3 (step 3" in top(parity).failures[0]
    assert "noise prediction is not finite after call 3 (step 3" in " ".join(parity.failures)
    assert "call 3 (step 3" in parity.blocks[0]


def test_a_wrong_initializer_of_one_graph_is_caught_and_its_block_named(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    """The scale of a group normalisation in the shallow graph, put there in place of the shared one."""
    model = onnx.load(copy / "step_001.onnx", load_external_data=False)
    name = "denoiser.up_blocks.3.resnets.2.norm1.weight"
    tensor = next(i for i in model.graph.initializer if i.name == name)
    place = {e.key: e.value for e in tensor.external_data}
    values = np.memmap(
        copy / "weights.bin", np.float32, "r", int(place["offset"]), tuple(tensor.dims)
    )
    tensor.CopyFrom(numpy_helper.from_array(np.array(values) * 1.05, name))
    onnx.save(model, copy / "step_001.onnx")
    resign(copy)
    parity, _ = check(copy, pipelines("shapes-sd"), bisect=True)
    off = [call.call for call in top(parity).calls if not call.worst[1].passed]
    assert off == [1, 2, 3, 4, 6, 7, 8, 9], "the calls of that graph"
    assert "call 1 (step 1" in parity.blocks[0]
    assert "the first block that is off is 'up_blocks.3.attentions.2'" in parity.blocks[0]
    assert "none runs before it" in parity.blocks[0]


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
    compared = [set(call.forced) - {"noise_prediction"} for call in top(parity).calls]
    residual = {"transformer_blocks.5:residual"}
    assert compared == [residual, set(), residual, set(), residual, set(), set()]
    assert adding.calls[-1].writes.keys() == residual, "written, though nobody reads it"


@pytest.mark.slow
def test_parity_holds_for_skips_and_for_a_value_that_comes_back(
    pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]
) -> None:
    """Block 5 skipped, run, and skipped again while its input is held; block 2 never runs."""
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    whole = search(opened, "full", Options(steps=6))
    gates = {(t, 4): Action.REUSE for t in (2, 3, 4)} | {(t, 2): Action.SKIP for t in range(6)}
    gates |= {(2, 5): Action.SKIP, (4, 5): Action.SKIP, (5, 5): Action.REUSE}
    subnet = with_actions(whole, lambda t, b: gates.get((t, b), Action.RUN), method="skipping")
    held = [row[port_of(whole.topology.ports_of[5][0])] for row in unroll(subnet).effective]
    assert held[2] == held[4] == held[5] != held[3]
    bundle = make_bundle("shapes-dit", subnet)
    parity = check_label(bundle.path, pipelines("shapes-dit"))
    assert parity.passed, parity.failures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three-levels", "learned-variance"])
def test_parity_holds_for_a_pipeline_without_some_of_its_blocks(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    path = make(pipelines(name), REMOVED[name], tmp_path / "pruned")
    options = Options(steps=3, guidance=3.0, granularity=Granularity.LAYER)
    whole = search(open_pipeline(path, weights=False), "full", options)
    bundle = export(path, whole, tmp_path / "bundle")
    prompt = "7" if bundle.takes_labels else PROMPT
    parity, _ = verify(bundle, [make_engine("onnxruntime", "cpu")], path, prompt=prompt)
    assert parity.failures == ()


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
    assert "call 3 (step 3) reads 'transformer_blocks.5:residual'" in parity.manifest.failures[0]
    assert first_off_on_its_way(top(parity)) == 4


def test_a_wrong_row_of_the_table_is_caught_and_its_step_named(
    copy: Path, pipelines: Callable[[str], Path]
) -> None:
    def enlarge(values: np.ndarray) -> None:
        values[3] *= 1.5  # an addition would be lost in the normalisation of groups

    plant_in_weights(copy, "prologue.onnx", timestep_table(copy), enlarge)
    parity, _ = check(copy, pipelines("shapes-sd"))
    assert not parity.passed
    assert [call.call for call in top(parity).calls if not call.worst[1].passed] == [3]
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


def test_what_is_allowed_is_k_floors(cached: Bundle, pipelines: Callable[[str], Path]) -> None:
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(cached, [engine], pipelines("shapes-sd"), prompt=PROMPT, seed=3, k=0.01)
    assert not parity.passed
    worst = top(parity).worst
    assert worst is not None
    assert worst.allowed == pytest.approx(0.01 * worst.floor)
    with pytest.raises(EngineError, match="k is 0; give a number above 0"):
        verify(cached, [engine], pipelines("shapes-sd"), prompt=PROMPT, k=0)


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
