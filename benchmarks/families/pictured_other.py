"""Pipelines of two stages, of long videos and of depth that begin from a picture."""

from __future__ import annotations

from functools import partial

from diffusers import (
    DiffusionPipeline,
    KandinskyImg2ImgCombinedPipeline,
    KandinskyInpaintCombinedPipeline,
    KandinskyV22Img2ImgCombinedPipeline,
    KandinskyV22InpaintCombinedPipeline,
    LTX2ConditionPipeline,
    LTXI2VLongMultiPromptPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableUnCLIPImg2ImgPipeline,
)
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from benchmarks.families import (
    encoders,
    image_cascade,
    pictured_older,
    pictured_sd,
    pictured_video_more,
    video_llm,
)
from benchmarks.families.pictures import mask, picture
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def combined(cls: type[DiffusionPipeline], *, old: bool, paint: bool) -> DiffusionPipeline:
    """A prior and a decoder of Kandinsky 2.1 (old) or 2.2, for inpainting or not."""
    both = image_cascade.kandinsky_combined() if old else image_cascade.kandinsky22_combined()
    prior = {k: v for k, v in both.components.items() if k.startswith("prior_")}
    makers = {
        (True, False): pictured_older.kandinsky_image_to_image,
        (True, True): pictured_older.kandinsky_inpaint,
        (False, False): pictured_older.kandinsky22_image_to_image,
        (False, True): pictured_older.kandinsky22_inpaint,
    }
    return cls(**makers[old, paint]().components, **prior)


def ltx_long() -> DiffusionPipeline:
    """Windows of frames one after the other."""
    return LTXI2VLongMultiPromptPipeline(**pictured_video_more.ltx_conditions().components)


def ltx2_conditions() -> DiffusionPipeline:
    """Any frames are given, each with its strength; sound is made too."""
    return LTX2ConditionPipeline(**video_llm.ltx2().components)


def depth() -> DiffusionPipeline:
    """Begins from the picture with noise; its estimated depth is a fifth channel."""
    built = pictured_sd.parts(5)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    estimator = DPTForDepthEstimation(
        DPTConfig(
            **sizes,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            is_hybrid=False,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
        )
    )
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipe = StableDiffusionDepth2ImgPipeline(
        **{name: built[name] for name in names},
        depth_estimator=estimator,
        feature_extractor=DPTImageProcessor(size={"height": 32, "width": 32}),
    )
    return with_random_weights(pipe, 361)


def unclip() -> DiffusionPipeline:
    """A picture's embedding with noise is the class of the picture."""
    parts = image_cascade.stable_unclip().components
    kept = {k: v for k, v in parts.items() if not k.startswith("prior")}
    pipe = StableUnCLIPImg2ImgPipeline(
        **kept, feature_extractor=encoders.clip_pictures(), image_encoder=encoders.clip_vision()
    )
    return with_random_weights(pipe, 362)


_KANDINSKY = {"height": 64, "width": 64, "prior_num_inference_steps": 3, "image": picture(64)}
_FROM = {**_KANDINSKY, "strength": 0.8}
_PAINT = {**_KANDINSKY, "mask_image": mask(64)}
_LTX = {"height": 64, "width": 64, "num_frames": 9}

TOYS = (
    *(
        Toy(cls.__name__, partial(combined, cls, old=old, paint=paint), call)
        for cls, old, paint, call in (
            (KandinskyImg2ImgCombinedPipeline, True, False, _FROM),
            (KandinskyInpaintCombinedPipeline, True, True, _PAINT),
            (KandinskyV22Img2ImgCombinedPipeline, False, False, _FROM),
            (KandinskyV22InpaintCombinedPipeline, False, True, _PAINT),
        )
    ),
    Toy(
        "LTXI2VLongMultiPromptPipeline",
        ltx_long,
        {
            **_LTX,
            "cond_image": picture(64),
            "decode_horizontal_tiles": 1,
            "decode_vertical_tiles": 1,
        },
    ),
    Toy(
        "LTX2ConditionPipeline",
        ltx2_conditions,
        {
            **_LTX,
            "conditions": LTX2VideoCondition(frames=picture(64), crf=0),
            "max_sequence_length": 32,
            "spatio_temporal_guidance_blocks": [1],
        },
    ),
    Toy("StableDiffusionDepth2ImgPipeline", depth, {"image": picture(), "strength": 0.8}),
    Toy("StableUnCLIPImg2ImgPipeline", unclip, {"height": 16, "width": 16, "image": picture()}),
)
