"""Other videos that begin from a picture or a video."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    DiffusionPipeline,
    EasyAnimateInpaintPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5I2VPipeline,
    LTX2ImageToVideoPipeline,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    MotifVideoImage2VideoPipeline,
    SanaImageToVideoPipeline,
)
from transformers import CLIPImageProcessor

from benchmarks.families import encoders, sight, texts, video_dit, video_llm, video_t5, words
from benchmarks.families.pictures import picture
from benchmarks.families.pictures import video as frames
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import hunyuan_vae
from benchmarks.families.video_texts import llava
from benchmarks.families.weights import with_random_weights


def ltx_from_picture() -> DiffusionPipeline:
    """The first latent frame is the picture and is told time zero."""
    return LTXImageToVideoPipeline(**video_dit.ltx().components)


def ltx_conditions() -> DiffusionPipeline:
    """Any frames are given, each with its strength."""
    parts = video_dit.ltx().components
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return LTXConditionPipeline(**parts)


def ltx2_from_picture() -> DiffusionPipeline:
    """The first latent frame is the picture; sound is made too."""
    return LTX2ImageToVideoPipeline(**video_llm.ltx2().components)


def cogvideox_from_picture() -> DiffusionPipeline:
    """The picture's latents and empty frames are channels."""
    parts = video_t5.cogvideox().components
    sizes = {**video_t5.COGVIDEOX, "in_channels": 8}
    parts["transformer"] = CogVideoXTransformer3DModel(
        **sizes, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True
    )
    return with_random_weights(CogVideoXImageToVideoPipeline(**parts), 281)


def cogvideox_from_video() -> DiffusionPipeline:
    """Begins from a video with noise."""
    return CogVideoXVideoToVideoPipeline(**video_t5.cogvideox().components)


def cogvideox_control() -> DiffusionPipeline:
    """The control video's latents are channels."""
    parts = video_t5.cogvideox().components
    sizes = {**video_t5.COGVIDEOX, "in_channels": 8}
    parts["transformer"] = CogVideoXTransformer3DModel(**sizes)
    return with_random_weights(CogVideoXFunControlPipeline(**parts), 282)


def hunyuan() -> dict[str, Any]:
    """The parts of HunyuanVideo but for the transformer."""
    return {
        "text_encoder": texts.llama(4),
        "tokenizer": words.llama(),
        "vae": hunyuan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": encoders.clip(words.clip()),
        "tokenizer_2": words.clip(),
    }


def hunyuan_skyreels() -> DiffusionPipeline:
    """SkyReels V1: the picture's latents are channels; halves batched."""
    transformer = HunyuanVideoTransformer3DModel(
        **video_dit.HUNYUAN, in_channels=8, out_channels=4, guidance_embeds=True
    )
    pipe = HunyuanSkyreelsImageToVideoPipeline(**hunyuan(), transformer=transformer)
    return with_random_weights(pipe, 283)


def framepack() -> DiffusionPipeline:
    """Sections from the last to the first, each with a history at three resolutions."""
    transformer = HunyuanVideoFramepackTransformer3DModel(
        **video_dit.HUNYUAN,
        in_channels=4,
        out_channels=4,
        has_image_proj=True,
        image_proj_dim=texts.WIDTH,
        has_clean_x_embedder=True,
    )
    pipe = HunyuanVideoFramepackPipeline(
        **hunyuan(),
        transformer=transformer,
        image_encoder=sight.siglip_vision(),
        feature_extractor=sight.siglip_pictures(),
    )
    return with_random_weights(pipe, 284)


def hunyuan15_from_picture() -> DiffusionPipeline:
    """The picture is seen as tokens and as the first frame."""
    parts = video_llm.hunyuan_video15().components
    settings = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    settings |= {"image_embed_dim": texts.WIDTH, "task_type": "i2v", "target_size": 32}
    parts["transformer"] = type(parts["transformer"])(**settings)
    pipe = HunyuanVideo15ImageToVideoPipeline(
        **parts, image_encoder=sight.siglip_vision(), feature_extractor=sight.siglip_pictures()
    )
    return with_random_weights(pipe, 285)


def kandinsky5_from_picture() -> DiffusionPipeline:
    """The first latent frame is the picture; its channels are told so."""
    return Kandinsky5I2VPipeline(**video_dit.kandinsky5().components)


def sana_from_picture() -> DiffusionPipeline:
    """The first latent frame is the picture at time zero."""
    parts = video_llm.sana_video().components
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=8.0)
    return SanaImageToVideoPipeline(**parts)


def motif_from_picture() -> DiffusionPipeline:
    """The picture's latents are channels; its tokens are read with the text."""
    parts = video_llm.motif_video().components
    settings = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    parts["transformer"] = type(parts["transformer"])(**settings | {"image_embed_dim": 16})
    parts["feature_extractor"] = sight.siglip_pictures()
    return with_random_weights(MotifVideoImage2VideoPipeline(**parts), 286)


def easy_animate_inpaint() -> DiffusionPipeline:
    """The latents of the masked video and of the mask are channels."""
    parts = video_llm.easy_animate().components
    settings = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    # The call works this way only: the other asks for a setting that the autoencoder does not have.
    settings |= {"in_channels": 12, "resize_inpaint_mask_directly": False}
    parts["transformer"] = type(parts["transformer"])(**settings)
    return with_random_weights(EasyAnimateInpaintPipeline(**parts), 288)


def hunyuan_from_picture() -> DiffusionPipeline:
    """The picture is read with the prompt, as 576 tokens, and its latents are channels."""
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    tokenizer = words.byte_level(
        ("<|begin_of_text|>",),
        bos_token="<|begin_of_text|>",
        extra_special_tokens=marks,
        padding_side="right",
    )
    settings = {**video_dit.HUNYUAN, "in_channels": 9, "out_channels": 4}
    parts = {
        **hunyuan(),
        "tokenizer": tokenizer,
        "text_encoder": llava(tokenizer.convert_tokens_to_ids("<image>")),
        "image_processor": CLIPImageProcessor(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}
        ),
        "transformer": HunyuanVideoTransformer3DModel(
            **settings, image_condition_type="latent_concat", guidance_embeds=False
        ),
    }
    return with_random_weights(HunyuanVideoImageToVideoPipeline(**parts), 289)


_SMALL = {**video_dit.SMALL, "image": picture()}
_SHORT = {**_SMALL, "max_sequence_length": 32}
CLIP = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(5))
"""EasyAnimate takes videos as tensors."""
_LTX = {"height": 64, "width": 64, "num_frames": 9, "image": picture(64)}

TOYS = (
    Toy("LTXImageToVideoPipeline", ltx_from_picture, _LTX),
    Toy("LTXConditionPipeline", ltx_conditions, _LTX),
    Toy(
        "LTX2ImageToVideoPipeline",
        ltx2_from_picture,
        {
            **_LTX,
            "max_sequence_length": 32,
            "spatio_temporal_guidance_blocks": [1],
            "image_crf": 0,
        },
    ),
    Toy("CogVideoXImageToVideoPipeline", cogvideox_from_picture, _SHORT),
    Toy(
        "CogVideoXVideoToVideoPipeline",
        cogvideox_from_video,
        {"height": 32, "width": 32, "video": frames(5), "max_sequence_length": 32},
    ),
    Toy(
        "CogVideoXFunControlPipeline",
        cogvideox_control,
        {"height": 32, "width": 32, "control_video": frames(5), "max_sequence_length": 32},
    ),
    Toy("HunyuanSkyreelsImageToVideoPipeline", hunyuan_skyreels, _SMALL),
    Toy("HunyuanVideoFramepackPipeline", framepack, {**_SMALL, "latent_window_size": 2}),
    Toy(
        "HunyuanVideo15ImageToVideoPipeline",
        hunyuan15_from_picture,
        {"num_frames": 5, "image": picture()},
    ),
    # The first four latent frames are normalised by those after them.
    Toy("Kandinsky5I2VPipeline", kandinsky5_from_picture, {**_SMALL, "num_frames": 17}),
    Toy(
        "SanaImageToVideoPipeline",
        sana_from_picture,
        {
            "height": 32,
            "width": 32,
            "frames": 5,
            "use_resolution_binning": False,
            "image": picture(),
        },
    ),
    Toy("MotifVideoImage2VideoPipeline", motif_from_picture, _SHORT),
    Toy("HunyuanVideoImageToVideoPipeline", hunyuan_from_picture, _SMALL),
    Toy(
        "EasyAnimateInpaintPipeline",
        easy_animate_inpaint,
        {**video_dit.SMALL, "video": CLIP, "mask_video": (CLIP[:, :1] > 0.5).float()},
    ),
)
