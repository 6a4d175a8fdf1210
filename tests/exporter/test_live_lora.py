"""LoRAs beside the weights, against diffusers' own pipeline with `set_adapters`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.families.lora import write_lora
from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import Bundle
from search.core.errors import SearchError
from search.core.lora import Lora, live, scale_of
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.command_line import ok, stepcarve

STEPS, SEED, PROMPT = 3, 5, "a small red circle"
TOLERANCE = 1e-4
DEFAULTS = {"first_one": 0.7, "second": -0.4}


def by_diffusers(path: Path, folder: Path, scales: dict[str, float]) -> np.ndarray:
    """Final latents of diffusers' call, the LoRAs loaded and not fused."""
    pipe = open_pipeline(path).pipe
    for name in scales:
        pipe.load_lora_weights(
            folder, weight_name=f"{name.replace('_', '-')}.safetensors", adapter_name=name
        )
    pipe.set_adapters([*scales], adapter_weights=[*scales.values()])
    latents: list[torch.Tensor] = []

    def keep(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"])
        return tensors

    with torch.no_grad():
        pipe(
            prompt=PROMPT,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(SEED),
            callback_on_step_end=keep,
        )
    return latents[-1].numpy()


@pytest.mark.slow
def test_scales_are_moved_without_another_export(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    path = pipelines("sdxl")
    pipe = open_pipeline(path).pipe
    for seed, name in enumerate(DEFAULTS):
        write_lora(pipe, tmp_path / f"{name.replace('_', '-')}.safetensors", seed=10 * seed)
    search(open_pipeline(path, weights=False), "full", Options(steps=STEPS)).save(
        tmp_path / "full.json"
    )
    given = [
        f"--lora-live={tmp_path / name.replace('_', '-')}.safetensors:{scale}"
        for name, scale in DEFAULTS.items()
    ]
    ok("export", path, tmp_path / "full.json", "-o", tmp_path / "bundle", *given)
    bundle = Bundle.open(tmp_path / "bundle")
    assert {each.name: each.scale for each in bundle.live_loras} == DEFAULTS
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    made = []
    for scales in (DEFAULTS, {"first_one": 0.0, "second": 0.0}, {"first_one": -0.3, "second": 1.2}):
        expected = by_diffusers(path, tmp_path, scales)
        moved = {} if scales == DEFAULTS else scales
        found = runner.run(PROMPT, seed=SEED, lora_scales=moved).latents
        assert np.linalg.norm(found - expected) < TOLERANCE * np.linalg.norm(expected)
        made.append(found)
    for other in made[1:]:
        assert np.linalg.norm(other - made[0]) > 100 * TOLERANCE * np.linalg.norm(made[0])
    with pytest.raises(EngineError, match=r"no LoRA 'third' .* \(first_one, second\)"):
        runner.run(PROMPT, lora_scales={"third": 1.0})
    picture = tmp_path / "picture.png"
    told = ("run", bundle.path, "--prompt", PROMPT, "-o", picture, "--seed", str(SEED))
    ok(*told, "--lora-scale", "second=1.2", "--save-latents", tmp_path / "latents.npy")
    expected = by_diffusers(path, tmp_path, {**DEFAULTS, "second": 1.2})
    found = np.load(tmp_path / "latents.npy")
    assert np.linalg.norm(found - expected) < TOLERANCE * np.linalg.norm(expected)
    parity, _ = verify(bundle, [make_engine("onnxruntime", "cpu")], path, prompt=PROMPT)
    assert parity.passed, parity.failures


def test_names_are_those_of_the_files(tmp_path: Path) -> None:
    files = tmp_path / "a-b.safetensors", tmp_path / "other" / "a.b.safetensors"
    files[1].parent.mkdir()
    for file in files:
        file.write_bytes(b"1")
    first, second = map(Lora.open, files)
    assert [each.name for each in live([first])] == ["a_b"]
    assert Lora.from_json(live([first])[0].to_json()) == live([first])[0]
    with pytest.raises(SearchError, match="are called 'a_b'; rename one of the files"):
        live([first, second])


@pytest.mark.parametrize("text", ["style", "=1", "style=", "style=big", "style=nan"])
def test_a_scale_is_a_name_and_a_number(text: str) -> None:
    assert scale_of("style=-0.5") == ("style", -0.5)
    with pytest.raises(SearchError, match=r"is not NAME=VALUE; .* such as style=0\.5"):
        scale_of(text)
    refused = stepcarve("run", "bundle", "--lora-scale", text, "-o", "a.png")
    assert refused.exit_code == 2
