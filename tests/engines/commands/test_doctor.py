"""`stepcarve doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.families import image_llm, video_wan
from search.core.blocks import abridged
from search.model.opening import open_pipeline
from tests.command_line import ok, stepcarve

if TYPE_CHECKING:
    from collections.abc import Callable

WAN_SIZE = ("--height", 32, "--width", 32, "--frames", 5)


def test_doctor_knows_what_works() -> None:
    findings = {f["name"]: f for f in json.loads(ok("doctor", "--json"))}
    assert findings["torch"]["works"]
    assert findings["onnxruntime on cpu"]["works"]
    assert "onnxruntime on cuda" in findings
    assert "onnxruntime on cpu" in ok("doctor")


def saved(cls: str, folder: Path) -> Path:
    """A toy of a class, in a folder."""
    toy = next(toy for toy in (*image_llm.TOYS, *video_wan.TOYS) if toy.cls == cls)
    toy.build().save_pretrained(folder / cls)
    return folder / cls


def test_a_pipeline_that_compiles(pipelines: Callable[[str], Path]) -> None:
    path = pipelines("shapes-sd")
    found = json.loads(ok("doctor", path, "--json"))
    assert set(found) == {"compiles", "pipeline", "obstacle", "without_weights", "parts", "step"}
    pipeline = open_pipeline(path)
    models = [pipeline.pipe.vae, pipeline.pipe.text_encoder]
    parts, step = found["parts"], found["step"]
    assert found["compiles"]
    assert found["pipeline"] == "StableDiffusionPipeline"
    assert not found["without_weights"]
    assert parts["denoiser"] == "UNet2DConditionModel"
    assert parts["parameters"] == pipeline.pipe.unet.num_parameters()
    assert parts["parameters_around"] == sum(model.num_parameters() for model in models)
    assert parts["scheduler"] == type(pipeline.pipe.scheduler).__name__
    assert parts["blocks"]["stage"]["count"] == 9
    assert step["streams"] == [""]
    assert step["rows"] == [2]
    assert step["picture"] == [64, 64]
    assert step["prompt_inputs"] == ["prompt_ids", "negative_ids"]
    weights = 4 * (parts["parameters"] + parts["parameters_around"])
    assert step["search_memory"] == weights + step["activations"] + step["libraries"]
    # The largest tensor of the U-Net is its first block's, twice for guidance.
    channels = pipeline.pipe.unet.config.block_out_channels[0]
    side = pipeline.pipe.unet.config.sample_size
    assert step["activations"] > 4 * 2 * channels * side**2


def test_two_calls_per_step_without_weights(tmp_path: Path) -> None:
    path = saved("WanPipeline", tmp_path)
    for file in path.rglob("*.safetensors"):
        file.unlink()
    found = json.loads(ok("doctor", path, "--json", *WAN_SIZE))
    assert found["compiles"]
    assert set(found["without_weights"]) == {"text_encoder", "transformer", "vae"}
    assert found["step"]["streams"] == ["cond", "uncond"]
    assert found["step"]["rows"] == [1, 1]
    assert found["step"]["picture"] == [32, 32, 5]
    assert found["parts"]["blocks"]["branch"] == {"count": 2, "names": ["blocks.0..1"]}


def test_what_stands_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    path = saved("SkyReelsV2DiffusionForcingPipeline", tmp_path)
    size = WAN_SIZE
    result = stepcarve("doctor", path, *size)
    assert result.exit_code == 1
    assert "compiles" in result.stdout
    assert "steps copies of its scheduler" in result.stdout.splitlines()[-1]
    weights = path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"none")
    result = stepcarve("doctor", path, "--json", *size)
    assert result.exit_code == 1
    assert "cannot read the weights" in json.loads(result.stdout)["obstacle"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--height", 64, "--width", 64],
            "--height (with a PIPELINE), --width (with a PIPELINE) have no effect",
        ),
        (["no-such-folder"], "there is no directory"),
        (["{sd}", "--height", 64], "both --height and --width"),
        (["{sd}", "--call", "colour=1"], "takes no colour"),
    ],
)
def test_bad_usage(options: list[Any], message: str, pipelines: Callable[[str], Path]) -> None:
    words = [str(each).format(sd=pipelines("shapes-sd")) for each in options]
    result = stepcarve("doctor", *words)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["blocks.0", "blocks.1", "mid_block"], ("blocks.0..1", "mid_block")),
        (["down.0.attn.0", "down.1.attn.0", "down.1.attn.1"], ("down.0..1.attn.0..1 (3)",)),
        (["blocks.3", "blocks.3.attn1"], ("blocks.3", "blocks.3.attn1")),
    ],
)
def test_names_that_differ_in_numbers_are_one(names: list[str], expected: tuple[str, ...]) -> None:
    assert abridged(names) == expected
