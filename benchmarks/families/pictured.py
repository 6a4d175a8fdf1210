"""All toys that begin from a picture or a video, and the classes of which there is none."""

from __future__ import annotations

from benchmarks.families import (
    pictured_llm,
    pictured_more,
    pictured_older,
    pictured_perturbed,
    pictured_pixels,
    pictured_sd,
    pictured_transformers,
    pictured_unet,
    pictured_video,
    pictured_video_more,
)

TOYS = (
    *pictured_sd.TOYS,
    *pictured_more.TOYS,
    *pictured_perturbed.TOYS,
    *pictured_older.TOYS,
    *pictured_pixels.TOYS,
    *pictured_transformers.TOYS,
    *pictured_llm.TOYS,
    *pictured_unet.TOYS,
    *pictured_video.TOYS,
    *pictured_video_more.TOYS,
)

_GUARD = "its constructor needs the package cosmos_guardrail, which loads models of many gigabytes"
_PROCESSOR = "its processor is Qwen2-VL's, which needs torchvision"

NOT_BUILT = {
    "ChromaInpaintPipeline": (
        "its call asks for `guidance_embeds`, a setting that Chroma's transformer does not have"
    ),
    "Cosmos2VideoToWorldPipeline": _GUARD,
    "Cosmos2_5_TransferPipeline": _GUARD,
    "CosmosVideoToWorldPipeline": _GUARD,
    "EasyAnimateControlPipeline": (
        "its call hands `text_encoder_index` to its own `encode_prompt`, which does not take it"
    ),
    "IFImg2ImgSuperResolutionPipeline": (
        "it cannot be loaded without a safety checker and a watermarker"
    ),
    "JoyImageEditPipeline": _PROCESSOR,
    "JoyImageEditPlusPipeline": _PROCESSOR,
    "Kandinsky5I2IPipeline": _PROCESSOR,
    "LongCatImageEditPipeline": _PROCESSOR,
    "QwenImageEditInpaintPipeline": _PROCESSOR,
    "QwenImageEditPipeline": _PROCESSOR,
    "QwenImageEditPlusPipeline": _PROCESSOR,
    "QwenImageLayeredPipeline": _PROCESSOR,
}
"""Class -> why there is no toy of it."""
