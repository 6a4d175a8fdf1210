"""LoRAs fused at export, against diffusers' own pipeline with the same LoRAs fused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.families.lora import write_lora
from engines.base import make_engine
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.exporting import _key, export
from search.core.errors import SearchError
from search.core.lora import Lora
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_for, open_pipeline
from tests.command_line import ok, stepcarve

STEPS = 3
PROMPT = "a small red circle"
TOLERANCE = 1e-4
PIXEL = 1.5 / 255
SCALES = (0.7, -0.4)


@dataclass(frozen=True)
class Made:
    """A pipeline, two LoRAs for it, and the bundle of both."""

    pipeline: Path
    subnet: Path
    files: tuple[Path, ...]
    bundle: Path


@pytest.fixture(scope="module")
def made(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    root, path = tmp_path_factory.mktemp("lora"), pipelines("sdxl")
    files = (root / "first.safetensors", root / "second.safetensors")
    pipe = open_pipeline(path).pipe
    for seed, file in enumerate(files):
        write_lora(pipe, file, seed=10 * seed)
    opened = open_pipeline(path, weights=False)
    search(opened, "full", Options(steps=STEPS)).save(root / "subnet.json")
    given = [f"--lora={file}:{scale}" for file, scale in zip(files, SCALES, strict=True)]
    ok("export", path, root / "subnet.json", "-o", root / "bundle", *given)
    return Made(path, root / "subnet.json", files, root / "bundle")


def by_diffusers(
    path: Path, loras: Sequence[tuple[Path, float]], parts: Sequence[str] = ()
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Final latents and picture of diffusers' call, with the LoRAs fused into `parts` of it."""
    pipe = open_pipeline(path).pipe
    for number, (file, _) in enumerate(loras):
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"lora{number}")
    if loras:
        names = [f"lora{number}" for number in range(len(loras))]
        pipe.set_adapters(names, [scale for _, scale in loras])
        pipe.fuse_lora(components=list(parts), adapter_names=names)
        pipe.unload_lora_weights()
    latents: list[torch.Tensor] = []

    def keep(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"])
        return tensors

    with torch.no_grad():
        images = pipe(
            prompt=PROMPT,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(5),
            output_type="np",
            callback_on_step_end=keep,
        ).images
    return latents[-1].numpy(), images


def off(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_pictures_are_those_of_diffusers_with_both_loras_fused(made: Made) -> None:
    loras = list(zip(made.files, SCALES, strict=True))
    unet, texts = ["unet"], ["text_encoder", "text_encoder_2"]
    latents, images = by_diffusers(made.pipeline, loras, unet + texts)
    found = Runner(Bundle.open(made.bundle), make_engine("onnxruntime", "cpu")).run(PROMPT, seed=5)
    assert off(found.latents, latents) < TOLERANCE
    assert np.abs(found.images / 255 - images).max() <= PIXEL
    for others, parts in (([], []), (loras[:1], unet + texts), (loras, unet), (loras, texts)):
        assert off(by_diffusers(made.pipeline, others, parts)[0], latents) > 100 * TOLERANCE


def test_the_manifest_names_them_and_the_subnet_stays_that_of_the_plain_pipeline(
    made: Made,
) -> None:
    bundle = Bundle.open(made.bundle)
    assert [(each.file, each.scale) for each in bundle.loras] == list(
        zip(made.files, SCALES, strict=True)
    )
    assert bundle.loras == tuple(
        Lora.open(file, scale) for file, scale in zip(made.files, SCALES, strict=True)
    )
    assert bundle.subnet.binding == SubNet.load(made.subnet).binding


def test_verify_fuses_them_again_wherever_they_are_now(made: Made, tmp_path: Path) -> None:
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    for each in manifest["loras"]:
        each["file"] = str(tmp_path / Path(each["file"]).name)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    gone = stepcarve("verify", bundle)
    assert gone.exit_code == 2
    assert "first.safetensors' is not there; say where it is with --lora" in gone.stderr
    # The order of what is given does not count: a file is known by its content.
    printed = ok("verify", bundle, *(f"--lora={file}" for file in reversed(made.files)))
    assert "Parity holds" in printed
    del manifest["loras"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    plain = stepcarve("verify", bundle)
    assert plain.exit_code == 1, "the pipeline without them is another one"
    stranger = stepcarve("verify", bundle, "--lora", made.files[0])
    assert stranger.exit_code == 2
    assert "no file that the bundle was made with (none)" in stranger.stderr


def test_another_file_of_that_name_is_refused(made: Made, tmp_path: Path) -> None:
    file = shutil.copy(made.files[0], tmp_path / "style.safetensors")
    lora = Lora.open(file)
    shutil.copy(made.files[1], file)
    with pytest.raises(SearchError, match=r"has the SHA-256 .* is wanted; say where"):
        lora.require()


def test_another_lora_is_another_export(made: Made) -> None:
    """A killed export with one LoRA is not continued with another, nor at another scale."""
    subnet = SubNet.load(made.subnet)
    pipeline = open_for(subnet, made.pipeline, weights=False)
    first, second = map(Lora.open, made.files)
    choices = [(), (first,), (second,), (Lora.open(made.files[0], 0.5),)]
    choices += [(first, second), (second, first)]
    keys = {_key(pipeline, [(subnet, 1)], "float32", loras) for loras in choices}
    assert len(keys) == len(choices)


def test_scales_are_read_off_the_end(tmp_path: Path) -> None:
    file, odd = tmp_path / "style.safetensors", tmp_path / "style.safetensors:2"
    file.write_bytes(b"1")
    assert Lora.parse(str(file)) == Lora.open(file, 1.0)
    assert Lora.parse(f"{file}:-0.25").scale == -0.25
    with pytest.raises(SearchError, match=r"no LoRA file .*style.safetensors:big"):
        Lora.parse(f"{file}:big")
    with pytest.raises(SearchError, match="scale nan; give a finite number"):
        Lora.parse(f"{file}:nan")
    odd.write_bytes(b"2")
    with pytest.raises(SearchError, match=r"is not a \.safetensors file"):
        Lora.parse(str(odd))


def _for_another_pipeline(made: Made, file: Path) -> None:
    save_file({"transformer.blocks.0.attn.lora_A.weight": torch.ones(2, 8),
               "transformer.blocks.0.attn.lora_B.weight": torch.ones(8, 2)}, file)  # fmt: skip


def _of_another_width(made: Made, file: Path) -> None:
    wider = {
        key: torch.ones(value.shape[0], 2 * value.shape[1]) if "lora_A" in key else value
        for key, value in load_file(made.files[0]).items()
    }
    save_file(wider, file)


def _of_other_layers(made: Made, file: Path) -> None:
    renamed = {
        key.replace("attentions", "cross_attentions"): value
        for key, value in load_file(made.files[0]).items()
        if key.startswith("unet")
    }
    save_file(renamed, file)


def _damaged(made: Made, file: Path) -> None:
    file.write_bytes(made.files[0].read_bytes()[:-100])


def _not_a_number(made: Made, file: Path) -> None:
    tensors = load_file(made.files[0])
    save_file({key: torch.full_like(value, torch.nan) for key, value in tensors.items()}, file)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_for_another_pipeline, "matches no layer of this StableDiffusionXLPipeline"),
        (_of_another_width, "does not fit this StableDiffusionXLPipeline"),
        (_of_other_layers, "does not fit this StableDiffusionXLPipeline"),
        (_damaged, "does not fit this StableDiffusionXLPipeline"),
        (_not_a_number, "does not fit this StableDiffusionXLPipeline"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    made: Made, tmp_path: Path, write: Callable[[Made, Path], None], message: str
) -> None:
    file = tmp_path / "wrong.safetensors"
    write(made, file)
    before = set(tmp_path.iterdir())
    with pytest.raises(SearchError, match=f"the LoRA .*wrong.safetensors' {message}"):
        export(made.pipeline, SubNet.load(made.subnet), tmp_path / "out", loras=[Lora.open(file)])
    assert set(tmp_path.iterdir()) == before


def test_a_pipeline_that_takes_none_is_refused(
    pipelines: Callable[[str], Path], made: Made, tmp_path: Path
) -> None:
    path = pipelines("shapes-dit")
    subnet = search(open_pipeline(path, weights=False), "full", Options(steps=2))
    with pytest.raises(SearchError, match="diffusers loads no LoRA into a DiTPipeline"):
        export(path, subnet, tmp_path / "out", loras=[Lora.open(made.files[0])])


def test_without_peft_it_says_what_to_install(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.model.lora.find_spec", lambda _: None)
    with pytest.raises(SearchError, match=r"peft, which is not installed; pip install peft"):
        export(
            made.pipeline,
            SubNet.load(made.subnet),
            tmp_path / "out",
            loras=[Lora.open(made.files[0])],
        )
