"""Pipelines as people have them: opened as diffusers opens them, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from search.core.errors import SearchError
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.recording import record_call
from search.model.reference import sample
from tests.pipelines import RANDOM

STEM = "diffusion_pytorch_model"
Copy = Callable[[str], Path]


@pytest.fixture
def copy(pipelines: Copy, tmp_path: Path) -> Copy:
    return lambda name: shutil.copytree(pipelines(name), tmp_path / "pipeline")


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def rewrite(
    file: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    save_file(change(load_file(file)), file)


def require_same_picture(opened: Pipeline, path: Path, **loading: Any) -> None:
    """The picture of the pipeline we opened is the one of diffusers' own."""
    request = Request(("a red cross",), steps=2, guidance=3.0)
    mine = sample(opened, request, generator=torch.Generator().manual_seed(1)).images
    pipe: Any = DiffusionPipeline.from_pretrained(path, dtype=torch.float32, **loading)
    pipe.set_progress_bar_config(disable=True)
    its = pipe(
        "a red cross",
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    assert mine is not None
    np.testing.assert_allclose(mine, its, atol=1e-5)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_files_that_diffusers_takes_are_taken(
    tmp_path: Path, variant: str | None, shards: bool
) -> None:
    pipe = RANDOM["three-levels"]().to(torch.float16)
    pipe.save_pretrained(
        tmp_path / "pipeline", variant=variant, max_shard_size="100KB" if shards else "1GB"
    )
    names = {file.name for file in (tmp_path / "pipeline" / "unet").iterdir()}
    assert (f"{STEM}.safetensors" not in names) == (shards or variant is not None)
    opened = open_pipeline(tmp_path / "pipeline")
    require_same_picture(opened, tmp_path / "pipeline", variant=variant)
    assert opened.fingerprint == open_pipeline(tmp_path / "pipeline", weights=False).fingerprint


def test_of_an_index_and_a_single_file_the_one_of_diffusers_is_taken(tmp_path: Path) -> None:
    pipe = RANDOM["three-levels"]()
    path, other = tmp_path / "pipeline", tmp_path / "other"
    pipe.save_pretrained(path, max_shard_size="200KB")
    pipe.unet.conv_in.weight.data *= 2
    pipe.save_pretrained(other)
    shutil.copy(other / "unet" / f"{STEM}.safetensors", path / "unet")
    require_same_picture(open_pipeline(path), path)


def test_files_beside_the_weights_do_not_count(copy: Copy) -> None:
    path = copy("three-levels")
    for name in (
        f"{STEM}.bin",
        f"{STEM}.fp16.safetensors",
        f"{STEM}.non_ema.safetensors",
        "x.ckpt",
    ):
        (path / "unet" / name).write_bytes(b"anything")
    (path / "v1-5-pruned.ckpt").write_bytes(b"anything")
    (path / ".git").mkdir()
    require_same_picture(open_pipeline(path), path)


def keep(folder: Path, *names: str) -> None:
    """Rename the weights of a folder, to all of these names."""
    [old] = folder.glob("*.safetensors")
    for name in names:
        shutil.copy(old, folder / name)
    old.unlink()


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    ("part", "names", "message"),
    [
        ("unet", [f"{STEM}.bin"], r"weights only in 'diffusion_pytorch_model.bin', a pickle"),
        (
            "text_encoder",
            ["pytorch_model.bin"],
            r"text_encoder' has its weights only in 'pytorch_mod",
        ),
        ("vae", [f"{STEM}.bin"], r"vae' has its weights only in 'diffusion_pytorch_model.bin'"),
        (
            "unet",
            [f"{STEM}.fp16.safetensors", f"{STEM}.ema.safetensors"],
            r"several variants \(ema, fp16\); keep",
        ),
        ("unet", ["pytorch_lora_weights.safetensors"], "has only LoRA weights; load them into"),
        ("vae", ["other.safetensors"], "no diffusion_pytorch_model.safetensors in"),
    ],
)
def test_a_part_without_weights_to_load_is_refused(
    copy: Copy, weights: bool, part: str, names: list[str], message: str
) -> None:
    path = copy("three-levels")
    keep(path / part, *names)
    with pytest.raises(SearchError, match=message):
        open_pipeline(path, weights=weights)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    RANDOM["three-levels"]().save_pretrained(tmp_path / "pipeline", max_shard_size="200KB")
    missing = sorted((tmp_path / "pipeline" / "unet").glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(SearchError, match=rf"names the shards \['{missing.name}'\], which are not"):
        open_pipeline(tmp_path / "pipeline", weights=False)


def with_lora(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As a pipeline is saved to which peft has attached a LoRA."""
    [name] = [name for name in tensors if name.endswith("q.weight") or "q_proj.weight" in name][:1]
    weight, stem = tensors.pop(name), name.removesuffix(".weight")
    return tensors | {
        f"{stem}.base_layer.weight": weight,
        f"{stem}.lora_A.default_0.weight": torch.zeros(2, weight.shape[1]),
        f"{stem}.lora_B.default_0.weight": torch.zeros(weight.shape[0], 2),
    }


def with_nine_channels(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    wide = torch.zeros(16, 9, 3, 3)
    return tensors | {"conv_in.weight": wide}


def lacking(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    del tensors["conv_out.bias"]
    return tensors


def as_int8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"conv_in.weight": tensors["conv_in.weight"].to(torch.int8)}


def with_scales(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"conv_in.weight_scale": torch.ones(1)}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_lora, r"have a LoRA attached \(.*fuse_lora\(\) and unload_lora_weights\(\)"),
        (
            with_nine_channels,
            r"'conv_in.weight' .*has the shape \[16, 9, 3, 3\], but its config.json",
        ),
        (lacking, r"are not those of its config.json: they lack \['conv_out.bias'\]; take both"),
        (as_int8, r"are quantised \('conv_in.weight' has the type I8\).*dequantize\(\)"),
        (with_scales, r"not those of its config.json: they have \['conv_in.weight_scale'\]"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_denoiser_whose_weights_are_not_its_own_is_refused(
    copy: Copy, weights: bool, change: Any, message: str
) -> None:
    path = copy("three-levels")
    rewrite(path / "unet" / f"{STEM}.safetensors", change)
    with pytest.raises(SearchError, match=message):
        open_pipeline(path, weights=weights)


def test_a_text_encoder_with_a_lora_or_without_a_weight_is_refused(copy: Copy) -> None:
    path = copy("three-levels")
    file = path / "text_encoder" / "model.safetensors"
    whole = load_file(file)
    save_file(with_lora(dict(whole)), file, {"format": "pt"})
    with pytest.raises(SearchError, match="have a LoRA attached"):
        open_pipeline(path)
    name = next(name for name in whole if name.endswith("fc1.weight"))
    save_file({k: v for k, v in whole.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(SearchError, match=r"text_encoder' lacks the weights \['.*fc1.weight'\]"):
        open_pipeline(path)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("weights", [True, False])
def test_a_quantised_part_is_refused(copy: Copy, part: str, weights: bool) -> None:
    path = copy("three-levels")
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit(path / part / "config.json", lambda config: config.update(quantization_config=how))
    with pytest.raises(SearchError, match=rf"{part}' are quantised .*'bitsandbytes'.*dequantize"):
        open_pipeline(path, weights=weights)


def test_float_types_of_any_width_are_taken_as_diffusers_takes_them(copy: Copy) -> None:
    path = copy("three-levels")
    kinds = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float32]

    def narrow(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: t.to(kinds[i % 4]) for i, (name, t) in enumerate(sorted(tensors.items()))}

    rewrite(path / "unet" / f"{STEM}.safetensors", narrow)
    require_same_picture(open_pipeline(path), path)


@pytest.mark.parametrize("part", ["safety_checker", "feature_extractor", "image_encoder"])
def test_a_part_that_is_never_carried_over_need_not_be_there(copy: Copy, part: str) -> None:
    path = copy("three-levels")
    named = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    edit(path / "model_index.json", lambda index: index.update({part: named[part]}))
    assert getattr(open_pipeline(path).pipe, part) is None


def without_t5(path: Path, *, index: bool) -> None:
    """Take the T5 out of a pipeline, as people do to save memory; from the index too, or only its files."""
    data = json.loads((path / "model_index.json").read_text())
    for name, entry in list(data.items()):
        if isinstance(entry, list) and str(entry[1]).startswith("T5"):
            shutil.rmtree(path / name)
            if index:
                data[name] = [None, None]
    (path / "model_index.json").write_text(json.dumps(data))


def test_sd3_runs_without_its_t5_as_in_diffusers(copy: Copy) -> None:
    path = copy("sd3")
    without_t5(path, index=True)
    opened = open_pipeline(path)
    parts = {"text_encoder_3": None, "tokenizer_3": None}
    require_same_picture(opened, path, **parts)
    assert full(open_pipeline(path, weights=False), Options(steps=2)).steps == 2


def test_a_part_that_is_named_but_not_there_is_named(copy: Copy) -> None:
    path = copy("sd3")
    without_t5(path, index=False)
    with pytest.raises(
        SearchError, match=r"the part 'text_encoder_3', but there is no .*download it too, or.*null"
    ):
        open_pipeline(path)


def test_flux_without_its_t5_says_what_it_lacks(copy: Copy) -> None:
    path = copy("flux-dev")
    without_t5(path, index=True)
    opened = open_pipeline(path, weights=False)
    with pytest.raises(
        SearchError,
        match=r"FluxPipeline itself fails here.*has no text_encoder_2 and no tokenizer_2, so give",
    ):
        full(opened, Options(steps=2))


@pytest.mark.parametrize("weights", [True, False])
def test_a_tokenizer_that_does_not_say_its_length_is_named(copy: Copy, weights: bool) -> None:
    path = copy("three-levels")
    file = path / "tokenizer" / "tokenizer_config.json"
    edit(file, lambda config: config.pop("model_max_length"))
    opened = open_pipeline(path, weights=weights)
    with pytest.raises(
        SearchError,
        match=r'its tokenizer does not say.*"model_max_length": \d+ into its tokenizer_c',
    ):
        full(opened, Options(steps=2))


@pytest.mark.parametrize("name", ["three-levels", "sdxl"])
def test_a_denoiser_without_sample_size_needs_a_size(copy: Copy, name: str) -> None:
    path = copy(name)
    edit(path / "unet" / "config.json", lambda config: config.update(sample_size=None))
    opened = open_pipeline(path)
    with pytest.raises(SearchError, match=r"no sample_size, so give --height and --width"):
        full(opened, Options(steps=2))
    subnet = full(opened, Options(steps=2, height=16, width=24))
    assert subnet.binding.noise_shape == (4, 8, 12)


def test_a_pipeline_that_fails_in_diffusers_is_told_as_that(copy: Copy) -> None:
    path = copy("sd3")
    edit(path / "vae" / "config.json", lambda config: config.update(shift_factor=None))
    opened = open_pipeline(path)
    with pytest.raises(
        SearchError, match=r"StableDiffusion3Pipeline itself fails here with TypeError: unsupported"
    ):
        sample(opened, Request(("x",), steps=1, guidance=1.0))


@pytest.mark.parametrize("raised", [RuntimeError, KeyError, AssertionError, ImportError, OSError])
def test_whatever_diffusers_raises_becomes_a_sentence(
    pipelines: Copy, monkeypatch: pytest.MonkeyPatch, raised: type[Exception]
) -> None:
    opened = open_pipeline(pipelines("sdxl"), weights=False)

    def fail(*_: Any, **__: Any) -> None:
        raise raised("out of order")

    monkeypatch.setattr(type(opened.pipe), "encode_prompt", fail)
    with pytest.raises(
        SearchError, match=rf"XLPipeline itself fails here with {raised.__name__}: .?out of order"
    ):
        record_call(opened, Request(("x",), steps=1, guidance=1.0))


def test_a_marker_on_pictures_is_left_out(pipelines: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as module

    monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
    opened = open_pipeline(pipelines("sdxl"), weights=False)
    assert opened.pipe.watermark is None


def linked(path: Path, root: Path) -> Path:
    """The pipeline as a hub's cache has it: every file a link to a blob."""
    (root / "blobs").mkdir(parents=True)
    snapshot = root / "snapshots" / "0123abcd"
    for number, file in enumerate(sorted(each for each in path.rglob("*") if each.is_file())):
        place = snapshot / file.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / "blobs" / f"{number:040x}")
        depth = "../" * len(place.relative_to(root).parent.parts)
        place.symlink_to(f"{depth}blobs/{number:040x}")
    return snapshot


def test_a_snapshot_in_a_hubs_cache_is_opened_as_it_is(pipelines: Copy, tmp_path: Path) -> None:
    root = tmp_path / "models--somebody--three-levels"
    snapshot = linked(pipelines("three-levels"), root)
    opened = open_pipeline(snapshot)
    assert opened.fingerprint == open_pipeline(pipelines("three-levels"), weights=False).fingerprint
    with pytest.raises(
        SearchError, match=r"is a hub's cache; give the snapshot in it, '.*0123abcd'"
    ):
        open_pipeline(root)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Path("https://example.org/a/b"), r"'https://example.org/a/b' is an address; download"),
        (Path("somebody/three-levels"), r"there is no directory 'somebody/three-levels'"),
        (Path(__file__), r"is a file; open it with diffusers' from_single_file"),
    ],
)
def test_what_is_no_directory_is_refused(given: Path, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        open_pipeline(given)


def test_a_modular_pipeline_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "modular_model_index.json").write_text("{}")
    with pytest.raises(SearchError, match="is a modular pipeline of diffusers"):
        open_pipeline(tmp_path)


def test_flux_sizes_are_multiples_of_twice_the_autoencoders_factor(pipelines: Copy) -> None:
    opened = open_pipeline(pipelines("flux-dev"), weights=False)
    with pytest.raises(SearchError, match=r"not of 18 x 18; .*choose multiples of 4"):
        full(opened, Options(steps=2, height=18, width=18))
    assert full(opened, Options(steps=2, height=20, width=20)).binding.noise_shape[1:] == (10, 10)


def test_a_t5_tokenizer_that_has_its_sentencepiece_model_alone_is_read(copy: Copy) -> None:
    from transformers.convert_slow_tokenizer import import_protobuf

    path = copy("pixart-sigma")
    before = open_pipeline(path, weights=False).pipe.tokenizer
    folder = path / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    proto: Any = import_protobuf().ModelProto()
    for text, score in model["vocab"]:
        proto.pieces.add(
            piece=text, score=score, type={"<unk>": 2, "<pad>": 3, "</s>": 3}.get(text, 1)
        )
    proto.trainer_spec.unk_id, proto.trainer_spec.model_type = 2, 1
    (folder / "spiece.model").write_bytes(proto.SerializeToString())
    (folder / "tokenizer.json").unlink()
    after = open_pipeline(path, weights=False).pipe.tokenizer
    text = "A red  cross, 12 times"
    assert after(text).input_ids == before(text).input_ids


def test_a_configuration_that_makes_no_denoiser_is_refused(copy: Copy) -> None:
    path = copy("three-levels")
    edit(path / "unet" / "config.json", lambda config: config.update(block_out_channels=[16]))
    with pytest.raises(SearchError, match=r"cannot make the unet of .* from its config.json"):
        open_pipeline(path, weights=False)


def test_the_denoiser_is_checked_before_anything_large_is_loaded(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy("three-levels")
    rewrite(path / "unet" / f"{STEM}.safetensors", lacking)
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", lambda *_, **__: pytest.fail("x"))
    monkeypatch.setattr("search.model.opening.load_parts", lambda *_, **__: pytest.fail("y"))
    with pytest.raises(SearchError, match="they lack"):
        open_pipeline(path)


def test_names_of_older_releases_are_read(copy: Copy) -> None:
    """As SD-1.5 is published: an attention of the autoencoder and buffers under their former names."""
    path = copy("three-levels")
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for new, old in former.items():
            for name in [name for name in tensors if f".attentions.0.{new}." in name]:
                tensors[name.replace(new, old)] = tensors.pop(name)
        return tensors

    rewrite(path / "vae" / f"{STEM}.safetensors", older)
    file = path / "text_encoder" / "model.safetensors"
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    save_file(load_file(file) | positions, file, {"format": "pt"})
    require_same_picture(open_pipeline(path), path)


def test_a_tokenizer_of_vocabulary_and_merges_alone_is_read(copy: Copy) -> None:
    path = copy("three-levels")
    before = open_pipeline(path, weights=False).pipe.tokenizer
    folder = path / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer.json").unlink()
    after = open_pipeline(path, weights=False).pipe.tokenizer
    assert after("a Red  cross").input_ids == before("a Red  cross").input_ids
    assert hasattr(after, "backend_tokenizer")


@pytest.mark.parametrize("weights", [True, False])
def test_a_class_that_diffusers_has_renamed_is_opened(copy: Copy, weights: bool) -> None:
    path = copy("learned-variance")
    before = open_pipeline(path, weights=False)
    old = "Transformer2DModel"
    edit(path / "model_index.json", lambda index: index.update(transformer=["diffusers", old]))
    edit(
        path / "transformer" / "config.json",
        lambda config: config.update(_class_name=old, norm_type="ada_norm_zero"),
    )
    opened = open_pipeline(path, weights=weights)
    assert type(opened.denoiser) is type(before.denoiser)


def test_tokenizers_under_the_names_of_their_fast_kind_are_opened(copy: Copy) -> None:
    path = copy("flux-dev")
    fast = {
        "tokenizer": ["transformers", "CLIPTokenizerFast"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
    }
    edit(path / "model_index.json", lambda index: index.update(fast))
    assert full(open_pipeline(path, weights=False), Options(steps=2)).guidance == 3.5
