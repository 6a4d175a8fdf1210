"""All toys that begin from a picture or a video, and the classes of which there is none."""

from __future__ import annotations

from benchmarks.families import (
    cosmos,
    edited,
    pictured_llm,
    pictured_more,
    pictured_older,
    pictured_other,
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
    *pictured_other.TOYS,
    *pictured_pixels.TOYS,
    *pictured_transformers.TOYS,
    *pictured_llm.TOYS,
    *pictured_unet.TOYS,
    *pictured_video.TOYS,
    *pictured_video_more.TOYS,
    *cosmos.FROM_PICTURE,
    *edited.TOYS,
)
LED = tuple(
    toy
    for toy in TOYS
    if not {"image", "control_image"}.isdisjoint(toy.call) and "strength" not in toy.call
)
"""Those that a picture leads from the first step on, as that of a ControlNet does."""

_PROCESSOR = (
    "its processor is Qwen2-VL's, which needs torchvision; nobody has tried the stand-in yet"
)
_ONNX = "its parts are ONNX graphs already"
_NO_LOOP = "it has no loop of steps"
_READS = "it reads a picture and makes none"
_UNTRIED = "nobody has built it yet"

NOT_BUILT = {
    "BlipDiffusionControlNetPipeline": _UNTRIED,
    "BriaFiboEditPipeline": _UNTRIED,
    "ChromaInpaintPipeline": (
        "its call asks for `guidance_embeds`, a setting that Chroma's transformer does not have"
    ),
    "Cosmos2_5_TransferPipeline": _UNTRIED,
    "EasyAnimateControlPipeline": (
        "its call hands `text_encoder_index` to its own `encode_prompt`, which does not take it"
    ),
    "FluxPriorReduxPipeline": _NO_LOOP,
    "HunyuanImageRefinerPipeline": _UNTRIED,
    "IFImg2ImgSuperResolutionPipeline": (
        "it cannot be loaded without a safety checker and a watermarker"
    ),
    "JoyImageEditPipeline": _PROCESSOR,
    "JoyImageEditPlusPipeline": _PROCESSOR,
    "Kandinsky5I2IPipeline": _PROCESSOR,
    "Kandinsky6SRPipeline": _UNTRIED,
    "KandinskyV22PriorEmb2EmbPipeline": _UNTRIED,
    "LDMSuperResolutionPipeline": _UNTRIED,
    "LEditsPPPipelineStableDiffusion": _UNTRIED,
    "LEditsPPPipelineStableDiffusionXL": _UNTRIED,
    "LTX2DFRPipeline": _UNTRIED,
    "LTX2DFRTemporalRefinePipeline": _UNTRIED,
    "LTX2HDRPipeline": _UNTRIED,
    "LTX2InContextPipeline": _UNTRIED,
    "LTX2LatentUpsamplePipeline": _NO_LOOP,
    "LTX2VideoDiffusionDecodePipeline": _NO_LOOP,
    "LTXLatentUpsamplePipeline": _NO_LOOP,
    "LongCatImageEditPipeline": _PROCESSOR,
    "MarigoldDepthPipeline": _READS,
    "MarigoldIntrinsicsPipeline": _READS,
    "MarigoldNormalsPipeline": _READS,
    "OnnxStableDiffusionImg2ImgPipeline": _ONNX,
    "OnnxStableDiffusionInpaintPipeline": _ONNX,
    "OnnxStableDiffusionUpscalePipeline": _ONNX,
    "QwenImageEditInpaintPipeline": "it works at 1024x1024 whatever size is asked for",
    "QwenImageEditPlusPipeline": _UNTRIED,
    "QwenImageLayeredPipeline": _PROCESSOR,
    "SanaWMLTX2Refiner": _UNTRIED,
    "SanaWMPipeline": _UNTRIED,
    "ShapEImg2ImgPipeline": "it makes shapes in space, not pictures",
    "VisualClozeGenerationPipeline": _UNTRIED,
    "VisualClozePipeline": _UNTRIED,
}
"""Class -> why there is no toy of it. Those that diffusers calls deprecated are left out."""
