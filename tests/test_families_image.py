"""Toys that make a picture from text."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from benchmarks.families import words
from benchmarks.families.image import NOT_BUILT, TOYS
from benchmarks.families.toy import Toy

FAST = ("Flux2Pipeline", "QwenImagePipeline", "StableDiffusionPipeline")
PROMPT = "a red circle on a blue field"
OTHER = "two green squares, painted at dusk"
LARGEST = {"HunyuanImagePipeline": 24e6}
"""Bytes; a layer for quoted words is 2048 wide in every instance of the class."""
NO_LATENTS = (
    "ConsistencyModelPipeline",
    "KandinskyCombinedPipeline",
    "KandinskyPipeline",
    "KandinskyPriorPipeline",
    "KandinskyV22PriorPipeline",
)
"""Their calls give finished pictures or embeddings only."""
CHANGED: dict[str, dict[str, Any]] = {
    "ConsistencyModelPipeline": {"class_labels": 2},
    "DDIMPipeline": {"generator": torch.Generator().manual_seed(1)},
    "DDPMPipeline": {"generator": torch.Generator().manual_seed(1)},
    "DiTPipeline": {"class_labels": [2]},
    "KandinskyV22Pipeline": {"image_embeds": torch.ones(1, 32)},
}
"""What to ask those for that take no prompt."""
OTHER_MEDIA = {
    "AceStepPipeline",
    "BlipDiffusionControlNetPipeline",
    "CogVideoXFunControlPipeline",
    "JoyImageEditPlusPipeline",
    "LLaDA2Pipeline",
    "LattePipeline",
    "LongCatAudioDiTPipeline",
    "SanaVideoPipeline",
    "StableAudio3AudioToAudioPipeline",
    "StableAudio3InpaintPipeline",
    "StableAudio3Pipeline",
}
"""They make sound, text or films, or begin from a picture, which their calls' arguments do not tell."""
NOT_TEXT_ALONE = {
    *("image", "strength", "mask_image", "control_image", "video", "num_frames"),
    *("audio_length_in_s", "audio_end_in_s"),
}
"""Arguments by which a call makes something else, or from something else."""


def each(toy: Toy) -> Any:
    marks = () if toy.cls in FAST else (pytest.mark.slow,)
    return pytest.param(toy, id=toy.cls, marks=marks)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made(pipe: Any, toy: Toy, *, output: str = "latent", **changed: Any) -> torch.Tensor:
    takes = inspect.signature(type(pipe).__call__).parameters
    scale = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    asked = {"prompt": PROMPT, "num_inference_steps": 3, scale: toy.guidance}
    asked |= {"negative_prompt": "blurry", "generator": torch.Generator().manual_seed(0)}
    asked |= {"output_type": "np" if toy.cls in NO_LATENTS else output}
    call = {k: v for k, v in {**asked, **toy.call, **changed}.items() if k in takes}
    return torch.as_tensor(np.asarray(pipe(**call)[0])).double()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("toy", [each(toy) for toy in TOYS])
def test_a_toy_is_small_and_saved_whole_and_what_it_is_asked_matters(
    toy: Toy, tmp_path: Path
) -> None:
    built = quiet(toy.build())
    toy.build().save_pretrained(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert written < LARGEST.get(toy.cls, 6e6)
    pipe = quiet(DiffusionPipeline.from_pretrained(tmp_path))
    assert type(pipe).__name__ == toy.cls
    first = made(pipe, toy)
    assert torch.isfinite(first).all()
    assert relative(made(built, toy), first) < 1e-3
    other = made(pipe, toy, **CHANGED.get(toy.cls, {"prompt": OTHER}))
    assert 0.01 < relative(other, first) < 3
    picture = made(pipe, toy, output="np")
    assert torch.isfinite(picture).all()
    assert picture.std() > 0.02


def scale_of(toy: Toy) -> str | None:
    """The argument that guides; DreamLite's mobile class takes one and ignores it."""
    takes = inspect.signature(getattr(diffusers, toy.cls).__call__).parameters
    scale = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    return scale if scale in takes and toy.cls != "DreamLiteMobilePipeline" else None


@pytest.mark.parametrize("toy", [each(toy) for toy in TOYS if scale_of(toy)])
def test_guidance_matters_where_the_call_takes_it(toy: Toy) -> None:
    pipe = quiet(toy.build())
    weaker: dict[str, Any] = {str(scale_of(toy)): toy.guidance / 2}
    assert relative(made(pipe, toy, **weaker), made(pipe, toy)) > 0.005


def test_each_class_that_makes_a_picture_from_text_has_a_toy_or_a_reason() -> None:
    have = [toy.cls for toy in TOYS]
    assert len(set(have)) == len(have)
    assert not set(have) & NOT_BUILT.keys()
    from_text = set()
    for name in (name for name in dir(diffusers) if name.endswith("Pipeline")):
        cls = getattr(diffusers, name)
        if not issubclass(cls, DiffusionPipeline):
            continue
        takes = inspect.signature(cls.__call__).parameters.keys()
        of_text = takes & {"prompt", "class_labels"} and not takes & NOT_TEXT_ALONE
        if of_text and ".deprecated." not in cls.__module__:
            from_text.add(name)
    assert from_text - set(have) - NOT_BUILT.keys() == OTHER_MEDIA


def test_the_system_prompt_of_qwen_image_is_the_34_tokens_that_it_drops() -> None:
    text = (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
        "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
        "<|im_start|>user\n"
    )
    assert len(words.qwen()(text).input_ids) == 34


@pytest.mark.parametrize(
    ("tokenizer", "ids"),
    [
        (words.qwen, [65, 221, 50, 286, 939]),
        (words.gemma, [2, 327, 357, 312, 387, 1040]),
        (words.t5, [24, 3, 301, 320, 319, 66, 1]),
        (words.bert, [2, 69, 358, 251, 3]),
        (words.chat_glm, [301, 303, 21, 4, 0, 6, 5, 117, 202, 12]),
        (words.xlm_roberta, [0, 25, 4, 302, 321, 320, 67, 2]),
    ],
)
def test_tokens_are_numbered_the_same_in_each_process(tokenizer: Any, ids: list[int]) -> None:
    assert tokenizer()("a Red circle").input_ids == ids
