"""Exports: what is in a bundle and what is not, and what happens when one is killed."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from exporter.bundle import Bundle
from exporter.errors import ExportError
from exporter.exporting import export
from exporter.traced import trace_denoiser, trace_ends
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.summary import summarise
from search.core.table import with_actions
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.mixes import random_mix
from tests.search.core.test_subnet import written_in_schema_1

MakeBundle = Callable[[str, SubNet], Bundle]


def deepcache(pipelines: Callable[[str], Path], steps: int = 50) -> SubNet:
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    return search(opened, "deepcache", Options(steps=steps, interval=5, branch=0))


def small(pipelines: Callable[[str], Path]) -> SubNet:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    return search(opened, "random", Options(steps=6, keep=0.5, granularity=Granularity.LAYER))


def test_deep_blocks_are_physically_gone_from_a_shallow_step(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    bundle = make_bundle("shapes-sd", deepcache(pipelines))
    assert len(bundle.calls) == 50
    assert len(bundle.graphs) == 2
    deep, shallow = (
        onnx.load(bundle.path / g, load_external_data=False).graph for g in bundle.graphs
    )
    assert [value.name for value in shallow.input][-1] == "up_blocks.3.attentions.1:0"
    read = {name for node in shallow.node for name in node.input}
    weights = {i.name for i in shallow.initializer}
    gone = ("down_blocks.1", "down_blocks.2", "down_blocks.3", "mid_block", "up_blocks.0")
    gone += ("up_blocks.1", "up_blocks.2", "up_blocks.3.resnets.1", "down_blocks.0.resnets.1")
    for block in gone:
        assert not [n for n in weights | read if f".{block}." in n], block
        assert [i.name for i in deep.initializer if f".{block}." in i.name], block
    assert len(shallow.node) < 0.12 * len(deep.node)


def test_a_block_under_delta_is_physically_gone(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    """Its graph reads the residual and adds it; of a ResNet, only the shortcut convolution is left."""
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    whole = search(opened, "full", Options(steps=4, granularity=Granularity.LAYER))
    names = ("mid_block.attentions.0", "up_blocks.1.resnets.0")
    gated = {whole.topology.blocks.index(name) for name in names}
    subnet = with_actions(
        whole, lambda t, b: Action.DELTA if t % 2 and b in gated else Action.RUN, method="delta"
    )
    bundle = make_bundle("three-levels", subnet)
    assert [call.graph for call in bundle.calls] == [0, 1, 0, 1]
    full, delta = (
        onnx.load(bundle.path / g, load_external_data=False).graph for g in bundle.graphs
    )
    residuals = {f"{name}:residual" for name in names}
    assert residuals == {v.name for v in full.output} - {"noise_prediction"}
    assert residuals < {v.name for v in delta.input}
    assert all(call.reads.keys() == residuals for call in bundle.calls[1::2])
    for graph, expected in ((full, 1), (delta, 0)):
        read = {name for node in graph.node for name in node.input} | {
            i.name for i in graph.initializer
        }
        assert bool([n for n in read if ".mid_block.attentions.0." in n]) == expected
        left = {n.split(".")[5] for n in read if ".up_blocks.1.resnets.0." in n}
        branch = {"conv1", "conv2"} if expected else set()
        assert left == {"conv_shortcut"} | branch
    kinds = [Counter(node.op_type for node in graph.node) for graph in (full, delta)]
    assert kinds[0]["Sub"] - kinds[1]["Sub"] == 2, "one subtraction per residual"


@pytest.mark.slow
def test_a_skipped_block_is_physically_gone_and_its_weights_are_not_written(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    """Of a ResNet whose width changes, the shortcut convolution is left."""
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    whole = search(opened, "full", Options(steps=3, granularity=Granularity.LAYER))
    names = ("mid_block.attentions.0", "up_blocks.1.resnets.0")
    gated = {whole.topology.blocks.index(name) for name in names}
    subnet = with_actions(
        whole, lambda _, b: Action.SKIP if b in gated else Action.RUN, method="skip"
    )
    bundle = make_bundle("three-levels", subnet)
    graph = onnx.load(bundle.path / "step_000.onnx", load_external_data=False).graph
    assert [v.name for v in graph.output] == ["noise_prediction"]
    read = {n for node in graph.node for n in node.input} | {i.name for i in graph.initializer}
    assert not [n for n in read if ".mid_block.attentions.0." in n]
    assert {n.split(".")[5] for n in read if ".up_blocks.1.resnets.0." in n} == {"conv_shortcut"}
    summary = summarise(subnet)
    gone = summary["params"] - summary["params_kept"]
    written = {
        name: (each.path / "weights.bin").stat().st_size
        for name, each in (("full", make_bundle("three-levels", whole)), ("skip", bundle))
    }
    assert gone > 0
    # What reads the timestep alone is a table in both; where large tensors end decides a little padding.
    names = ("weight", "bias")
    weights = [f"up_blocks.1.resnets.0.time_emb_proj.{name}" for name in names]
    tabled = sum(opened.weights.tensor(name).numel() for name in weights)
    assert written["full"] - written["skip"] == pytest.approx(4 * (gone - tabled), abs=4096)


def test_a_block_that_is_skipped_at_some_steps_keeps_its_weights(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    whole = search(opened, "full", Options(steps=3, granularity=Granularity.LAYER))
    block = whole.topology.blocks.index("mid_block.attentions.0")
    subnet = with_actions(
        whole, lambda t, b: Action.SKIP if b == block and t != 1 else Action.RUN, method="some"
    )
    some, all_of_them = make_bundle("three-levels", subnet), make_bundle("three-levels", whole)
    assert [call.graph for call in some.calls] == [0, 1, 0]
    assert some.files["weights.bin"] == all_of_them.files["weights.bin"]


def test_a_cached_tensor_that_a_skipped_block_hands_on_keeps_its_name_and_is_not_copied(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    """What block 2 emits is cached, and block 3 hands it on in the same call."""
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    whole = search(opened, "full", Options(steps=3, granularity=Granularity.STAGE))
    moves = {(0, 3): Action.SKIP, (1, 2): Action.REUSE}
    subnet = with_actions(whole, lambda s, b: moves.get((s, b), Action.RUN), method="hands on")
    bundle = make_bundle("shapes-dit", subnet)
    graph = onnx.load(bundle.path / bundle.graphs[0], load_external_data=False).graph
    assert [v.name for v in graph.output] == ["noise_prediction", "transformer_blocks.2:0"]
    assert "Identity" not in {node.op_type for node in graph.node}
    assert not [i.name for i in graph.initializer if "transformer_blocks.3." in i.name]


def test_a_residual_that_no_later_step_adds_is_not_in_the_graph(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    whole = search(opened, "full", Options(steps=2, granularity=Granularity.LAYER))
    bundle = make_bundle("three-levels", whole)
    graph = onnx.load(bundle.path / bundle.graphs[0], load_external_data=False).graph
    assert [v.name for v in graph.output] == ["noise_prediction"]
    assert not [n for node in graph.node for n in (*node.input, *node.output) if "residual" in n]


@pytest.mark.slow
def test_a_subnet_of_schema_1_is_exported_as_before(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    subnet = small(pipelines)
    old = SubNet.from_json(written_in_schema_1(subnet), "old.json")
    old_bundle, bundle = (make_bundle("three-levels", each) for each in (old, subnet))
    graphs = [name for name in bundle.files if name.endswith(".onnx")]
    assert [old_bundle.files[name] for name in graphs] == [bundle.files[name] for name in graphs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "hoisted"),
    [
        ("three-levels", {"attn2.to_k", "attn2.to_v"}, {"time_emb", "time_embedding"}),
        ("learned-variance", {"norm1.linear", "class_embedder", "proj_out_1"}, {"timestep_embed"}),
    ],
)
def test_what_does_not_depend_on_the_latents_is_in_no_step_graph(
    pipelines: Callable[[str], Path],
    make_bundle: MakeBundle,
    name: str,
    before: set[str],
    hoisted: set[str],
) -> None:
    """`before` is read by the prologue; `hoisted` by nothing: its results are in the table."""
    opened = open_pipeline(pipelines(name), weights=False)
    whole = search(opened, "full", Options(steps=4, granularity=Granularity.LAYER))
    bundle = make_bundle(name, random_mix(whole, seed=2))
    assert len(bundle.graphs) > 1
    prologue, *steps = (
        onnx.load(bundle.path / g, load_external_data=False).graph
        for g in ("prologue.onnx", *bundle.graphs)
    )

    def read(graph: onnx.GraphProto, parts: set[str]) -> set[str]:
        return {part for part in parts for i in graph.initializer if f".{part}" in i.name}

    assert read(prologue, before) == before
    assert read(prologue, hoisted) == set()
    given = {v.name for v in prologue.output}
    for step in steps:
        assert read(step, before | hoisted) == set()
        assert not {"timestep", "encoder_hidden_states", "class_labels"} & {
            v.name for v in step.input
        }
    assert given == {v.name for step in steps for v in step.input if "/" in v.name}
    assert set(bundle.rows) == {each for each in given if each.startswith("timestep/")}


def test_weights_that_no_graph_reads_are_left_out(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    bundle = make_bundle("three-levels", small(pipelines))
    read = {}
    for name in bundle.files:
        if name.endswith(".onnx"):
            graph = onnx.load(bundle.path / name, load_external_data=False).graph
            for tensor in graph.initializer:
                place = {e.key: int(e.value) for e in tensor.external_data if e.key != "location"}
                read[tensor.name] = place.get("length", 0)
    aligned = sum(4096 for length in read.values() if length >= 65536)
    assert (bundle.path / "weights.bin").stat().st_size <= sum(read.values()) + aligned


def test_weights_are_stored_once(pipelines: Callable[[str], Path], make_bundle: MakeBundle) -> None:
    bundle = make_bundle("shapes-sd", deepcache(pipelines))
    files = {f.name: f.stat().st_size for f in bundle.path.iterdir()}
    assert set(files) == {*bundle.files, "manifest.json"}
    pipeline = sum(f.stat().st_size for f in pipelines("shapes-sd").rglob("*.safetensors"))
    assert sum(files.values()) <= 1.05 * pipeline
    for graph in bundle.graphs:
        model = onnx.load(bundle.path / graph, load_external_data=False)
        places = {
            e.value for i in model.graph.initializer for e in i.external_data if e.key == "location"
        }
        assert places == {"weights.bin"}


def test_step_graphs_are_sound_onnx(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    bundle = make_bundle("three-levels", small(pipelines))
    assert len(bundle.graphs) > 2
    for graph in (*bundle.graphs, "condition.onnx", "decode.onnx"):
        onnx.checker.check_model(bundle.path / graph, full_check=True)
        model = onnx.load(bundle.path / graph, load_external_data=False)
        assert {o.domain for o in model.opset_import} == {""}
        assert model.opset_import[0].version >= 23


@pytest.mark.slow
def test_a_step_without_a_call_makes_none(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    whole = search(opened, "full", Options(steps=50))
    last = whole.topology.blocks.index("up_blocks.3.attentions.2")
    held = with_actions(
        whole, lambda t, b: Action.REUSE if b == last and t % 5 else Action.RUN, method="held"
    )
    bundle = make_bundle("shapes-sd", held)
    assert [call.step for call in bundle.calls] == list(range(0, 50, 5))
    assert len(bundle.graphs) == 1
    assert bundle.sampler.inputs.shape == (10, 11)


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (trace_denoiser, trace_ends):  # for itself in both
        monkeypatch.setattr(f"exporter.variant.{each.__name__}", each)
    subnet = small(pipelines)
    first, second = (
        export(pipelines("three-levels"), subnet, tmp_path / name) for name in ("a", "b")
    )
    assert first.files == second.files
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("a", "b")]
    assert manifests[0] == manifests[1]


def test_an_existing_target_is_left_alone(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(SearchError, match=r"bundle' exists; remove it or choose another name"):
        export(pipelines("three-levels"), small(pipelines), out)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_a_failed_export_leaves_nothing(
    pipelines: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("exporter.exporting.write_weights", broken)
    with pytest.raises(OSError, match="Input/output error"):
        export(pipelines("three-levels"), small(pipelines), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_files_that_may_not_grow_are_one_sentence_and_leave_nothing(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """The system itself refuses the write: the weights are larger than any file may be."""
    small(pipelines).save(tmp_path / "subnet.json")
    limit = 200_000
    assert (tmp_path / "subnet.json").stat().st_size < limit
    before = sorted(tmp_path.rglob("*"))
    ended = subprocess.run(
        [
            sys.executable, "-m", "cli", "export", str(pipelines("three-levels")),
            str(tmp_path / "subnet.json"), "-o", str(tmp_path / "bundle"),
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    (sentence,) = ended.stderr.strip().splitlines()
    assert sentence.startswith(f"Error: there is no space left for {str(tmp_path / 'bundle')!r}")
    assert sentence.endswith(
        "the unfinished bundle was removed; free some space, or choose another place"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_batch_of_no_images_is_refused(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the batch is 0; give 1 or more"):
        export(pipelines("three-levels"), small(pipelines), tmp_path / "bundle", batches=(0,))


@pytest.mark.slow
def test_a_killed_export_leaves_no_bundle_and_is_finished_by_the_next(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    subnet = small(pipelines)
    subnet.save(tmp_path / "subnet.json")
    out = tmp_path / "bundle"
    partial = tmp_path / ".bundle.partial"
    command = [
        sys.executable, "-m", "cli", "export", str(pipelines("three-levels")),
        str(tmp_path / "subnet.json"), "-o", str(out),
    ]  # fmt: skip
    child = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not (partial / "step_001.onnx").exists() and time.monotonic() < deadline:
        assert child.poll() is None, "the export ended before it could be killed"
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists()
    done = json.loads((partial / "finished.json").read_text())
    assert "weights.bin" in done
    written = (partial / "weights.bin").stat().st_mtime_ns

    subprocess.run(command, check=True, capture_output=True)
    assert not partial.exists()
    assert (out / "weights.bin").stat().st_mtime_ns == written, "finished files are kept"
    Bundle.open(out).check()
    again = export(pipelines("three-levels"), subnet, tmp_path / "other")
    assert again.files == Bundle.open(out).files


@pytest.mark.slow
def test_what_another_export_left_is_not_used(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    partial = tmp_path / ".bundle.partial"
    partial.mkdir()
    (partial / "weights.bin").write_text("of something else")
    (partial / "key").write_text("another")
    bundle = export(pipelines("three-levels"), small(pipelines), tmp_path / "bundle")
    bundle.check()
    assert "key" not in {p.name for p in bundle.path.iterdir()}
