"""Opening pipelines, and refusing what is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_for, open_pipeline
from search.model.reference import sample


@pytest.fixture
def copy(pipelines: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(pipelines("three-levels"), tmp_path / "pipeline")


def weights_of(pipeline: Path) -> Path:
    return pipeline / "unet" / "diffusion_pytorch_model.safetensors"


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"there is no directory .*nowhere"):
        open_pipeline(tmp_path / "nowhere")


def test_a_directory_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"has no model_index.json, so it is not a diffusers"):
        open_pipeline(tmp_path)


def test_a_pipeline_whose_class_needs_other_parts_is_refused(copy: Path) -> None:
    index = copy / "model_index.json"
    data = json.loads(index.read_text()) | {"_class_name": "AudioLDMPipeline"}
    index.write_text(json.dumps(data))
    with pytest.raises(SearchError, match=r"cannot load the pipeline .*AudioLDMPipeline.*expected"):
        open_pipeline(copy)


@pytest.mark.parametrize("weights", [True, False])
def test_truncated_weights_are_refused(copy: Path, weights: bool) -> None:
    path = weights_of(copy)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SearchError, match="cannot read the weights"):
        open_pipeline(copy, weights=weights)


def test_missing_weights_are_refused(copy: Path) -> None:
    weights_of(copy).unlink()
    with pytest.raises(SearchError, match=r"no diffusion_pytorch_model.safetensors in"):
        open_pipeline(copy)


def test_cuda_is_refused_where_there_is_none(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SearchError, match="device 'cuda' was requested, but PyTorch finds no CUDA"):
        open_pipeline(copy, device="cuda")
    with pytest.raises(SearchError, match="unknown device 'tpu'; use cpu or cuda"):
        open_pipeline(copy, device="tpu")


def test_an_unknown_scheduler_is_refused_with_the_compatible_ones(copy: Path) -> None:
    opened = open_pipeline(copy, weights=False)
    with pytest.raises(
        SearchError, match=r"no scheduler 'Magic' for this pipeline; choose one of .*DDIMScheduler"
    ):
        opened.use_scheduler("Magic")


def test_the_fingerprint_knows_the_weights(copy: Path) -> None:
    before = open_pipeline(copy, weights=False).fingerprint
    assert open_pipeline(copy, weights=True).fingerprint == before
    tensors = load_file(weights_of(copy))
    tensors["conv_in.weight"][0, 0, 0, 0] += 1e-3
    save_file(tensors, weights_of(copy))
    assert open_pipeline(copy, weights=False).fingerprint != before


def test_a_subnet_of_another_model_is_refused(copy: Path, pipelines: Callable[[str], Path]) -> None:
    subnet = full(open_pipeline(copy, weights=False), Options(steps=3))
    assert open_for(subnet, copy, weights=False).fingerprint == subnet.binding.fingerprint
    with pytest.raises(
        SearchError, match="made for weights and configuration with the fingerprint"
    ):
        open_for(subnet, pipelines("two-levels"), weights=False)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.5}))
    with pytest.raises(
        SearchError, match=r"scheduler config \{'beta_end': 0.012\}, but here it is"
    ):
        open_for(subnet, copy, weights=False)


def test_a_subnet_brings_its_own_scheduler(copy: Path) -> None:
    opened = open_pipeline(copy, weights=False)
    opened.use_scheduler("DPMSolverMultistepScheduler")
    subnet = full(opened, Options(steps=3))
    again = open_for(subnet, copy, weights=False)
    assert type(again.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"


@pytest.mark.parametrize("name", ["three-levels", "learned-variance"])
def test_a_pipeline_knows_the_size_of_its_pictures(
    pipelines: Callable[[str], Path], name: str
) -> None:
    pipeline = open_pipeline(pipelines(name))
    whole = full(pipeline, Options(steps=2, guidance=3))
    request = Request((pipeline.family.default_prompt,), steps=2, guidance=3)
    images = sample(pipeline, request).images
    assert images is not None
    assert pipeline.size(whole.binding.noise_shape) == images.shape[1:3]
