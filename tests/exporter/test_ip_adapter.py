"""IP-Adapters added at export, against diffusers' own pipeline with the same one loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.families import encoders, ip_adapter
from benchmarks.families.pictures import picture
from engines.base import make_engine
from engines.errors import EngineError
from engines.runner import Runner
from exporter import encoding_check
from exporter.bundle import Bundle
from exporter.encoding_check import unlike_encodings
from exporter.exporting import _key
from search.core.errors import SearchError
from search.core.lora import IPAdapter
from search.core.pictures import values_of
from search.methods.options import Options
from search.methods.registry import search
from search.model.families.text_to_image import TextToImage
from search.model.family import Request
from search.model.ip_adapter import attach_ip_adapter, take_ip_adapter
from search.model.opening import open_pipeline
from tests.command_line import ok, stepcarve
from tests.hand_gating import gated_by_hand
from tests.mixes import random_mix

STEPS, SEED, PROMPT, NEGATIVE, GUIDANCE, SCALE = 2, 5, "a red circle", "blue", 2.0, 0.8
FILE = "adapter.safetensors"


def wide() -> Image.Image:
    """A picture that is neither square nor of the encoder's size."""
    return picture(70, seed=3).crop((0, 0, 70, 41))


def write_toy(folder: Path) -> None:
    """A pipeline and an IP-Adapter for it."""
    pipe = ip_adapter.seeing()
    pipe.save_pretrained(folder / "toy")
    ip_adapter.write_ip_adapter(pipe, folder / FILE)


def of_diffusers(pipe: diffusers.StableDiffusionPipeline, given: Image.Image) -> list[np.ndarray]:
    """Final latents and picture of diffusers' call."""
    made = []
    for output in ("latent", "np"):
        with torch.no_grad():
            images = pipe(
                prompt=PROMPT,
                negative_prompt=NEGATIVE,
                guidance_scale=GUIDANCE,
                num_inference_steps=STEPS,
                height=32,
                width=32,
                ip_adapter_image=given,
                generator=torch.Generator().manual_seed(SEED),
                output_type=output,
            ).images
        made.append(np.asarray(images))
    return made


@pytest.mark.slow
def test_pictures_are_those_of_diffusers_for_any_picture_given(tmp_path: Path) -> None:
    write_toy(tmp_path)
    opened = open_pipeline(tmp_path / "toy", weights=False)
    options = Options(steps=STEPS, guidance=GUIDANCE, height=32, width=32)
    subnet = random_mix(search(opened, "full", options), 1)
    subnet.save(tmp_path / "subnet.json")
    toy, bundle = tmp_path / "toy", tmp_path / "bundle"
    given = f"--ip-adapter={tmp_path / FILE}:{SCALE}"
    ok("export", toy, tmp_path / "subnet.json", "-o", bundle, given)
    runner = Runner(Bundle.open(bundle), make_engine("onnxruntime", "cpu"))
    assert runner.bundle.ip_adapter == IPAdapter.open(tmp_path / FILE, SCALE)
    assert runner.bundle.pictures == {"ip-image"}

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(toy)
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=FILE, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(SCALE)
    expected = []
    for each in (picture(), wide()):
        with gated_by_hand(pipe.unet, subnet, TextToImage("StableDiffusionPipeline", "unet")):
            expected.append(of_diffusers(pipe, each))
        latents, pixels = expected[-1]
        made = runner.run(PROMPT, negative=NEGATIVE, seed=SEED, pictures={"ip-image": each})
        assert np.linalg.norm(made.latents - latents) < 1e-4 * np.linalg.norm(latents)
        assert np.abs(made.images / 255 - pixels).max() <= 1 / 255
    (first, _), (second, _) = expected
    assert np.linalg.norm(first - second) > 0.01 * np.linalg.norm(first)

    with pytest.raises(EngineError, match="needs a picture as its ip-image; give --ip-image FILE"):
        runner.run(PROMPT)
    picture().save(tmp_path / "given.png")
    ok(
        *("run", bundle, "--prompt", PROMPT, "--ip-image", tmp_path / "given.png"),
        *("--seed", SEED, "--negative", NEGATIVE, "-o", tmp_path / "made.png"),
    )
    pixels = np.asarray(Image.open(tmp_path / "made.png"), np.float32)
    assert np.abs(pixels / 255 - expected[0][1]).max() <= 1 / 255
    moved = shutil.move(tmp_path / FILE, tmp_path / "moved.safetensors")
    gone = stepcarve("verify", bundle)
    assert "is not there; say where it is with --ip-adapter" in gone.stderr
    assert "Parity holds" in ok("verify", bundle, "--ip-adapter", moved)


def test_another_adapter_is_another_export(tmp_path: Path) -> None:
    write_toy(tmp_path)
    pipeline = open_pipeline(tmp_path / "toy", weights=False)
    one, two = (IPAdapter.open(tmp_path / FILE, scale) for scale in (1.0, 0.5))
    keys = {_key(pipeline, [], "float32", each) for each in ((), (one,), (two,))}
    assert len(keys) == 3


def test_its_image_encoder_may_lie_beside_its_file(tmp_path: Path) -> None:
    write_toy(tmp_path)
    folder = shutil.move(tmp_path / "toy" / "image_encoder", tmp_path / "image_encoder")
    index = tmp_path / "toy" / "model_index.json"
    index.write_text(index.read_text().replace('"image_encoder"', '"_image_encoder"'))
    pipe = open_pipeline(tmp_path / "toy").pipe
    adapter = IPAdapter.open(tmp_path / FILE)
    attach_ip_adapter(pipe, tmp_path / "toy", adapter)
    saved = load_file(Path(folder) / "model.safetensors")
    assert all(
        torch.equal(tensor, saved[name]) for name, tensor in pipe.image_encoder.state_dict().items()
    )
    shutil.rmtree(folder)
    with pytest.raises(SearchError, match=r"has no image_encoder, and there is no .*put the image"):
        attach_ip_adapter(pipe, tmp_path / "toy", adapter)
    tensors = load_file(tmp_path / FILE)
    save_file({**tensors, "ip_adapter.0.to_k_lora.down.weight": torch.ones(1)}, tmp_path / FILE)
    with pytest.raises(SearchError, match=r"what a face recogniser makes of a picture \(FaceID\)"):
        attach_ip_adapter(pipe, tmp_path / "toy", IPAdapter.open(tmp_path / FILE))
    with pytest.raises(SearchError, match="cannot be loaded into a SimpleNamespace: only IP-Ad"):
        attach_ip_adapter(SimpleNamespace(), tmp_path / "toy", adapter)


@pytest.mark.slow
def test_the_picture_of_ip_adapter_plus_is_encoded_as_by_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = ip_adapter.seeing()
    pipe.save_pretrained(tmp_path / "toy")
    ip_adapter.write_ip_adapter(pipe, tmp_path / FILE, plus=True)
    opened = open_pipeline(tmp_path / "toy", weights=False)
    take_ip_adapter(opened, IPAdapter.open(tmp_path / FILE))
    request = Request((PROMPT,), STEPS, GUIDANCE, height=32, width=32)
    conditioner = opened.family.conditioner(opened, request)
    assert unlike_encodings(opened, conditioner, request) == {}
    monkeypatch.setattr(encoding_check, "values_of", lambda *given: 1 - values_of(*given))
    assert [*unlike_encodings(opened, conditioner, request)] == [
        "prepare_ip_adapter_image_embeds__0"
    ]


@pytest.mark.parametrize("size", [(32, 32), (70, 41), (20, 33)])
def test_its_picture_is_prepared_as_clip_does(size: tuple[int, int]) -> None:
    given = picture(80, seed=2).resize(size)
    processor = encoders.clip_pictures()
    expected = processor(given, return_tensors="np", do_normalize=False).pixel_values
    made = values_of(given, "ip-image", (1, 3, 32, 32), 32)
    np.testing.assert_allclose(made, expected, atol=1e-6)
