"""The calls in PyTorch, one after the other."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.parity.inputs import inputs_of
from engines.parity.reference import Reference, run_reference
from engines.parity.replay import predictors_of, replay
from exporter.bundle import Bundle
from search.core.names import PREDICTION
from search.core.subnet import Granularity
from search.core.topology import Target
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from search.model.reference import gated
from tests.mixes import random_mix


@pytest.fixture(scope="module")
def reference(pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle]) -> Reference:
    path = pipelines("shapes-dit")
    options = Options(steps=6, granularity=Granularity.LAYER)
    subnet = random_mix(search(open_pipeline(path, weights=False), "full", options), seed=2)
    bundle = make_bundle("shapes-dit", subnet)
    inputs = inputs_of(bundle, prompt="red circle", negative="", guidance=None, seed=3)
    return run_reference(bundle, path, inputs, probes=[])


def test_every_call_gives_what_it_gives_in_a_gated_run(reference: Reference) -> None:
    """One gate for the whole run keeps its own values; the replay hands them from call to call."""
    kept: dict[tuple[int, Target], np.ndarray] = {}

    def keep(step: int, target: Target, tensor: Any) -> None:
        kept[step, target] = tensor.numpy().copy()

    calls = reference.bundle.calls
    [predict], steps = predictors_of(reference), [call.step for call in calls]
    denoiser, subnet = reference.opened.denoiser, reference.subnet
    with torch.no_grad(), gated(denoiser, subnet, steps=steps, observe=keep):
        for step in steps:
            timestep = torch.tensor(subnet.timesteps[step])
            predict(torch.from_numpy(reference.sample(step)), timestep)
    compared = 0
    for call in replay(reference, inner=range(len(calls))):
        for target, name in reference.computed(call.step).items():
            assert np.array_equal(call.made[name], kept[call.step, target])
            compared += 1
        for name, tensor in call.reads.items():
            assert np.array_equal(tensor, kept[reference.origin(call.step, name)])  # type: ignore[index]
    assert compared == len(kept)


def test_nothing_outlives_its_last_reader(reference: Reference) -> None:
    """At any call there are the values that it or a later call reads, and its own."""
    calls = reference.bundle.calls
    last = {
        reference.origin(call.step, name): number
        for number, call in enumerate(calls)
        for name in call.reads
    }
    made: dict[Any, weakref.ref[np.ndarray]] = {}
    for call in replay(reference, inner=range(len(calls))):
        for target, name in reference.computed(call.step).items():
            made[call.step, target] = weakref.ref(call.made[name])
        current = call.number
        del call
        gc.collect()
        for origin, tensor in made.items():
            is_wanted = last.get(origin, -1) >= current or origin[0] == calls[current].step
            assert is_wanted or tensor() is None, origin
    assert len(made) > len(last)


def test_a_call_gives_its_noise_prediction_if_it_makes_one(reference: Reference) -> None:
    predicts = [PREDICTION in call.made for call in replay(reference)]
    assert predicts == [call.prediction is not None for call in reference.bundle.calls]
