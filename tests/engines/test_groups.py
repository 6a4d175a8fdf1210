"""Pipelines whose steps do not all do the same, against diffusers' own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.families import image, video
from benchmarks.families.image_qwen import TOYS as QWEN
from benchmarks.families.toy import Toy
from engines.base import make_engine
from engines.runner import Runner
from exporter.exporting import export
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.core.subnet import SubNet
from search.core.table import with_rows
from search.fitting.fit import fit_subnets
from search.methods.options import Options
from search.methods.registry import search
from search.model.families.text_to_image import call_parameters, scale_argument
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample
from search.supernet.supernet import supernet
from tests.hand_gating import gated_by_hand
from tests.mixes import random_mix

STEPS = 4
SIZES = ("height", "width", "num_frames")
CASES: dict[str, tuple[tuple[Toy, ...], dict[str, Any]]] = {
    "wan_two_experts": (video.TOYS, {}),
    "stable_diffusion_3": (
        image.TOYS,
        {"skip_guidance_layers": [0], "skip_layer_guidance_stop": 0.6},
    ),
    "ideogram4": (QWEN, {"guidance_scale": None, "guidance_schedule": [7.0, 7.0, 7.0, 3.0]}),
}
"""Two networks by timestep; another call in part of the steps; two networks and a scale per step."""
EXPORTED = ("wan_two_experts", "stable_diffusion_3")
"""Ideogram 4 packs its text by its length, so no graph can take one."""
pytestmark = pytest.mark.slow


def toy_of(name: str) -> tuple[Toy, dict[str, Any]]:
    """A toy, and its call."""
    toys, call = CASES[name]
    toy = next(each for each in toys if getattr(each.build, "__name__", "") == name)
    return toy, {**toy.call, **call}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saves a toy once."""
    folder = tmp_path_factory.mktemp("toys")

    def save(name: str) -> Path:
        path = folder / name
        if not path.exists():
            toy_of(name)[0].build().save_pretrained(path)
        return path

    return save


def opened(path: Path, name: str, *, weights: bool = True) -> Pipeline:
    found = open_pipeline(path, weights=weights)
    found.use_call({k: v for k, v in toy_of(name)[1].items() if k not in SIZES})
    return found


def options(name: str, **settings: Any) -> Options:
    toy, call = toy_of(name)
    size = {each: call.get(each) for each in ("height", "width")}
    return Options(
        steps=STEPS, guidance=toy.guidance, frames=call.get("num_frames"), **size, **settings
    )


def own_call(pipe: Any, name: str, output: str) -> np.ndarray:
    """diffusers' own call; nothing of ours in between."""
    toy, call = toy_of(name)
    wanted = {
        "prompt": "a red circle",
        scale_argument(pipe): toy.guidance,
        **call,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(5),
        "output_type": output,
        "return_dict": False,
    }
    takes = call_parameters(pipe)
    return np.asarray(pipe(**{k: v for k, v in wanted.items() if k in takes})[0])


def run(subnet: SubNet, path: Path, out: Path) -> Any:
    runner = Runner(export(path, subnet, out), make_engine("onnxruntime", "cpu"))
    return runner.run("a red circle", seed=5)


def request_of(name: str, subnet: SubNet) -> Request:
    noise = torch.randn(1, *subnet.binding.latent_shape, generator=torch.Generator().manual_seed(0))
    ask = Request(("a cat",), STEPS, toy_of(name)[0].guidance, latents=noise)
    return ask.sized(subnet.binding.picture)


@pytest.mark.parametrize("name", EXPORTED)
def test_full_equals_diffusers_picture_for_picture(saved: Any, tmp_path: Path, name: str) -> None:
    path = saved(name)
    subnet = search(opened(path, name, weights=False), "full", options(name))
    groups = subnet.topology.groups
    assert groups is not None
    assert len(groups.calls) == 2
    found = run(subnet, path, tmp_path / "bundle").images / 255
    expected = own_call(opened(path, name).pipe, name, "np")
    assert np.abs(found.reshape(expected.shape) - expected).max() <= 1 / 255


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_mixes_equal_diffusers_gated_by_hand(
    saved: Any, tmp_path: Path, name: str, seed: int
) -> None:
    path, granularity = saved(name), (Granularity.BRANCH, Granularity.LAYER)[seed % 2]
    pipeline = opened(path, name)
    mixed = random_mix(search(pipeline, "full", options(name, granularity=granularity)), seed)
    assert len(set().union(*mixed.actions)) > 1
    ask = request_of(name, mixed)
    with gated_by_hand(pipeline.networks, mixed, pipeline.family):
        by_hand = sample(pipeline, ask)
    reference = sample(pipeline, ask, mixed)
    torch.testing.assert_close(reference.latents[-1], by_hand.latents[-1], rtol=1e-4, atol=1e-5)
    if name not in EXPORTED:
        return
    with gated_by_hand(pipeline.networks, mixed, pipeline.family):
        expected = own_call(pipeline.pipe, name, "latent")
    found = run(mixed, path, tmp_path / "bundle").latents.reshape(-1)
    difference = np.linalg.norm(found - expected.reshape(-1)) / np.linalg.norm(expected)
    assert difference <= 1e-3


@pytest.mark.parametrize("name", CASES)
def test_the_supernet_is_the_gated_reference(saved: Any, name: str) -> None:
    pipeline = opened(saved(name), name)
    full = search(pipeline, "full", options(name))
    random, topology = np.random.default_rng(0), full.topology
    with supernet(pipeline, full) as net:
        gates = torch.zeros(net.shape)
        chosen = random.integers(0, 2, net.shape[:2])
        gates.scatter_(2, torch.from_numpy(chosen)[..., None], 1.0)
        case = net.case(("a cat",), request_of(name, full).latents)
        found = net.run(gates, case)
        gates.requires_grad_()
        net.run(gates, case).latents[-1].square().sum().backward()
    may = [
        [topology.has(step, b) and step != topology.first_step(b) for b in range(net.shape[1])]
        for step in range(STEPS)
    ]
    rows = [
        [Action.REUSE if free and choice else Action.RUN for free, choice in zip(*row, strict=True)]
        for row in zip(may, chosen, strict=True)
    ]
    expected = sample(pipeline, request_of(name, full), with_rows(full, rows))
    torch.testing.assert_close(found.latents[-1], expected.latents[-1], rtol=1e-4, atol=1e-4)
    assert gates.grad is not None
    felt = (gates.grad != 0).any(-1).tolist()
    assert not any(
        f for step, row in enumerate(felt) for b, f in enumerate(row) if not may[step][b]
    )
    assert any(map(any, felt))


def test_what_fits_samplers_refuses_groups(saved: Any) -> None:
    pipeline = opened(saved("wan_two_experts"), "wan_two_experts")
    full = search(pipeline, "full", options("wan_two_experts"))
    with pytest.raises(SearchError, match="fitting a sampler needs a pipeline whose steps"):
        fit_subnets(
            pipeline, full, [full], ["a"], reference_steps=None, seed=0, report=lambda *_: None
        )
