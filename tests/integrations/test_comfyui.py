"""The nodes of ComfyUI: as its documentation asks for them, and what they make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from engines.base import make_engine
from engines.errors import EngineError
from engines.runner import Runner
from exporter.bundle import Bundle
from tests.command_line import ok
from tests.integrations.comfyui import Host, Interrupted, check_node, run_workflow

NODES = Path(__file__).parent.parent.parent / "integrations" / "comfyui"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "models")


@pytest.fixture
def package(host: Host) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        yield host.load(NODES, patch)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Bundle:
    """In the folder of ComfyUI's models, under the name of the shipped workflow."""
    return Bundle.open(
        shutil.copytree(made / "bundle", tmp_path / "models" / "stepcarve" / "shapes")
    )


class SaveImage:
    """ComfyUI's own, as far as a workflow sees it."""

    RETURN_TYPES, FUNCTION = (), "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:  # noqa: N802
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}}

    def save(self, images: Any, filename_prefix: str) -> tuple[()]:
        del images, filename_prefix
        return ()


def test_the_nodes_are_what_comfyui_asks_for(package: ModuleType) -> None:
    nodes = package.NODE_CLASS_MAPPINGS
    assert len(nodes) == 3
    assert set(package.NODE_DISPLAY_NAME_MAPPINGS) == set(nodes)
    for node in nodes.values():
        check_node(node)


def test_the_shipped_workflow_makes_the_picture_of_a_run(
    package: ModuleType, host: Host, bundle: Bundle
) -> None:
    workflow = json.loads((NODES / "workflow.json").read_text())
    made = run_workflow(workflow, {**package.NODE_CLASS_MAPPINGS, "SaveImage": SaveImage})
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    asked = workflow["2"]["inputs"]
    ours = runner.run(asked["prompt"], seed=asked["seed"]).images
    found = np.rint(made["2"][0].numpy() * 255)
    np.testing.assert_array_equal(found, ours)
    assert np.abs(found - runner.run(asked["prompt"], seed=2).images).max() > 0
    [(total, seen)] = host.bars
    assert [value for value, _ in seen] == list(range(1, total + 1))
    assert total == len(bundle.calls)
    kind, preview, side = seen[-1][1]
    assert (kind, preview.mode, side) == ("JPEG", "RGB", 512)


def test_a_run_can_be_interrupted_and_the_bundle_runs_again(
    package: ModuleType, host: Host, bundle: Bundle
) -> None:
    nodes = package.NODE_CLASS_MAPPINGS
    (runner,) = nodes["StepcarveLoadBundle"]().load(str(bundle.path), "onnxruntime", "cpu")
    host.is_stopped = True
    with pytest.raises(Interrupted):
        nodes["StepcarveRun"]().run(runner, "red", 1)
    assert host.bars[0][1] == []
    host.is_stopped = False
    (images,) = nodes["StepcarveRun"]().run(runner, "red", 1, "", 3.0)
    assert images.shape == (1, 24, 24, 3)


def test_a_bundle_that_changes_is_loaded_again(package: ModuleType, bundle: Bundle) -> None:
    load = package.NODE_CLASS_MAPPINGS["StepcarveLoadBundle"]
    before = load.IS_CHANGED(path="shapes", engine="onnxruntime", device="cpu")
    assert before == load.IS_CHANGED(path=str(bundle.path), engine="openvino", device="cpu")
    manifest = bundle.path / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert load.IS_CHANGED(path="shapes") != before
    for name in ("nowhere", " "):
        with pytest.raises(EngineError, match=f"there is no {name!r}; give its whole path"):
            load().load(name, "onnxruntime", "cpu")


def test_a_picture_and_a_mask_are_given_as_files_are(package: ModuleType) -> None:
    values = torch.rand(2, 4, 6, 3)
    picture = package.nodes.picture_of(values)
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    np.testing.assert_array_equal(np.asarray(picture), np.rint(values[0].numpy() * 255))
    assert package.nodes.picture_of(torch.ones(1, 4, 6)).mode == "L"


def test_sigmas_are_those_of_the_exported_list(
    package: ModuleType, bundle: Bundle, tmp_path: Path
) -> None:
    node = package.NODE_CLASS_MAPPINGS["StepcarveSigmas"]
    file, listed = tmp_path / "models" / "stepcarve" / "subnet.json", tmp_path / "list.txt"
    bundle.subnet.save(file)
    ok("export-scheduler", file, "-o", listed, "--format", "comfyui")
    expected = [float(level) for level in listed.read_text().split(",")]
    for path in ("subnet.json", "shapes"):
        found = run_workflow(
            {"1": {"class_type": "Sigmas", "inputs": {"path": path}}}, {"Sigmas": node}
        )["1"][0]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert found[-1] == 0
    assert len(found) == sum(call.prediction is not None for call in bundle.calls) + 1
