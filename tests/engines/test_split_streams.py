"""Pipelines whose one call for both halves of guidance is made as two, against diffusers' own call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engines.base import make_engine
from engines.parity import verify
from engines.runner import Runner
from exporter.exporting import export
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.core.liveness import unroll
from search.core.subnet import SubNet
from search.core.table import with_rows
from search.core.topology import Base, Computation, base_of
from search.methods.options import Options
from search.methods.registry import search
from search.model import split_streams
from search.model.body import DenoiserUse
from search.model.family import Request
from search.model.opening import open_asked, open_for, open_pipeline
from search.model.pipeline import Pipeline
from tests.mixes import random_mix

STEPS, GUIDANCE = 4, 20.0
"""A large scale, so that guidance shows in pipelines whose weights are random."""
FAMILIES = [
    "three-levels",
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("sdxl", "sd3", "pixart-alpha", "shapes-dit")
    ),
]


def split(path: Path, *, weights: bool = False) -> Pipeline:
    return open_asked(path, scheduler=None, split_streams=True, weights=weights)


def full(pipeline: Pipeline, granularity: Granularity = Granularity.BRANCH) -> SubNet:
    options = Options(steps=STEPS, guidance=GUIDANCE, granularity=granularity)
    return search(pipeline, "full", options)


def prompt_of(pipeline: Pipeline) -> str:
    return "1" if pipeline.family.classes(pipeline.pipe) else "a red circle"


def own_call(pipeline: Pipeline, noise: NDArray[np.float32]) -> Any:
    """diffusers' own call; its final pictures in 0..1."""
    request = Request((prompt_of(pipeline),), STEPS, GUIDANCE, latents=torch.from_numpy(noise))
    return np.asarray(pipeline.family.call(pipeline.pipe, request, None))


def noise_of(subnet: SubNet) -> NDArray[np.float32]:
    drawn = np.random.default_rng(5).standard_normal((1, *subnet.binding.noise_shape))
    return drawn.astype(np.float32)


def made(subnet: SubNet, path: Path, out: Path, prompt: str) -> Any:
    runner = Runner(export(path, subnet, out), make_engine("onnxruntime", "cpu"))
    return runner.run(prompt, latents=noise_of(subnet)).images / 255


def holding(denoiser: Any, action: Action) -> Callable[[], None]:
    """Replace the unconditional half at every second step; returns what ends it.

    By what it was at the step before (`REUSE`), by the other half with the difference of the halves at the step
    before (`DELTA`), or by the other half, which is a step without guidance (`SKIP`).
    """
    kept: list[Any] = []
    calls = 0
    is_first = type(denoiser).__name__ != "DiTTransformer2DModel"

    def hold(module: Any, args: Any, output: Any) -> Any:
        nonlocal calls
        del module, args
        halves = list(output[0].chunk(2))
        own = 0 if is_first else 1
        other = halves[1 - own]
        if calls % 2 == 0:
            kept[:] = [halves[own], halves[own] - other]
        else:
            instead = {Action.REUSE: kept[0], Action.DELTA: other + kept[1], Action.SKIP: other}
            halves[own] = instead[action]
        calls += 1
        joined = torch.cat(halves)
        return (joined, *output[1:]) if isinstance(output, tuple) else type(output)(sample=joined)

    handle: Any = denoiser.register_forward_hook(hold)
    end: Callable[[], None] = handle.remove
    return end


@pytest.mark.parametrize("action", [Action.REUSE, Action.DELTA, Action.SKIP])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_unconditional_half_can_be_left_out(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str, action: Action
) -> None:
    whole = full(split(pipelines(name)))
    column = whole.topology.blocks.index("uncond")
    rows = [list(row) for row in whole.actions]
    for row in rows[1::2]:
        row[column] = action
    held = with_rows(whole, rows)
    assert sum(unroll(held).macs) == pytest.approx(0.75 * sum(unroll(whole).macs), rel=0.02)
    plain = open_pipeline(pipelines(name))
    end = holding(plain.denoiser, action)
    expected = own_call(plain, noise_of(held))
    end()
    found = made(held, pipelines(name), tmp_path / "bundle", prompt_of(plain))
    assert np.abs(found - expected).max() <= 1 / 255
    assert np.abs(own_call(plain, noise_of(held)) - expected).max() > 1 / 255, "it shows"


@pytest.mark.parametrize("name", FAMILIES)
def test_split_as_a_whole_it_makes_the_same_pictures(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    whole = full(split(pipelines(name)))
    plain = open_pipeline(pipelines(name))
    found = made(whole, pipelines(name), tmp_path / "bundle", prompt_of(plain))
    assert np.abs(found - own_call(plain, noise_of(whole))).max() <= 1 / 255


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three-levels", "sd3"])
def test_a_mix_of_all_actions_passes_verify(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    mixed = random_mix(full(split(pipelines(name)), Granularity.LAYER), 1)
    assert {block.split("/")[0] for block in mixed.topology.blocks} == {"cond", "uncond"}
    bundle = export(pipelines(name), mixed, tmp_path / "bundle")
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines(name), prompt="a red cross")
    assert parity.passed, parity.failures


def test_a_subnet_remembers_it(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    whole = full(split(pipelines("three-levels")))
    whole.save(tmp_path / "subnet.json")
    again = SubNet.load(tmp_path / "subnet.json")
    assert again == whole
    assert '"schema": 9' in (tmp_path / "subnet.json").read_text()
    here = open_for(again, pipelines("three-levels"), weights=False)
    assert full(here).topology == whole.topology
    batched = replace(whole, binding=replace(whole.binding, split_streams=False))
    plain = open_for(batched, pipelines("three-levels"), weights=False)
    assert full(plain).topology != whole.topology


def test_before_schema_9_a_whole_call_has_no_base(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = full(split(pipelines("three-levels")))
    block = whole.topology.blocks.index("uncond")
    [port] = whole.topology.ports_of[block]
    kept, target = whole.topology.computations, base_of(port)
    old = replace(
        whole.topology,
        computations={**kept, target: Computation(frozenset(), varies=True)},
        bases={**whole.topology.bases, port: Base(0)},
    )
    path = tmp_path / "subnet.json"
    replace(whole, topology=old).save(path)
    assert '"schema": 8' in path.read_text()
    read = SubNet.load(path)
    assert port not in read.topology.bases
    assert read.topology.has_blocks_of(whole.topology), "it can still be exported"
    assert read.topology.macs == whole.topology.macs
    rows = [list(row) for row in whole.actions]
    rows[1][block] = Action.SKIP
    replace(with_rows(whole, rows), topology=old).save(path)
    with pytest.raises(SearchError, match=r"step 1 has SKIP for \['uncond'\]"):
        SubNet.load(path)


def test_a_pipeline_without_two_halves_is_refused(pipelines: Callable[[str], Path]) -> None:
    with pytest.raises(
        SearchError, match=r"FluxPipeline calls it with 1 rows .* leave out --split"
    ):
        split(pipelines("flux-dev"))


def test_a_batch_that_is_a_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of Z-Image, which nothing would cut."""
    body = SimpleNamespace(uses=(DenoiserUse(2, is_batch=False),), pictures=1)
    monkeypatch.setattr(split_streams, "Body", lambda *_: body)
    pipeline: Any = SimpleNamespace(default_prompt="", pipe=SimpleNamespace())
    with pytest.raises(SearchError, match=r"gives its denoiser a list of samples, .*; leave out"):
        split_streams.split_streams(pipeline)


def test_a_batch_of_another_size_is_not_cut(pipelines: Callable[[str], Path]) -> None:
    pipeline = split(pipelines("three-levels"), weights=True)
    calls: list[int] = []
    handle = pipeline.denoiser.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    noise = noise_of(full(pipeline))
    calls.clear()
    request = Request(
        ("a red circle",) * 2, 1, 1.0, latents=torch.from_numpy(noise).repeat(2, 1, 1, 1)
    )
    pipeline.family.call(pipeline.pipe, request, None)
    handle.remove()
    assert calls == [2], "two pictures without guidance are no two halves"
