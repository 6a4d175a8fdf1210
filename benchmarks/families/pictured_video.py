"""Wan and its relatives with a picture or a video to begin from."""

from __future__ import annotations

from typing import Any

from diffusers import (
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    DiffusionPipeline,
    LucyEditPipeline,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Transformer3DModel,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)

from benchmarks.families import encoders, sight, texts, words
from benchmarks.families.pictures import mask, picture, video
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import wan_vae
from benchmarks.families.video_wan import SHORT, WAN, unipc
from benchmarks.families.weights import with_random_weights

SEEING = {"image_dim": texts.WIDTH, "added_kv_proj_dim": 24}
"""A transformer of Wan that attends to a picture's tokens too."""


def parts(shift: float = 5.0) -> dict[str, Any]:
    """All of Wan but the transformer."""
    return {
        "tokenizer": words.t5(),
        "text_encoder": texts.umt5_encoder(),
        "vae": wan_vae(),
        "scheduler": unipc(shift),
    }


def eye() -> dict[str, Any]:
    """An encoder of pictures with what prepares them."""
    return {"image_encoder": sight.clip_vision(), "image_processor": encoders.clip_pictures()}


def wan_from_picture() -> DiffusionPipeline:
    """Wan 2.1: channels for mask and first frame, and a picture's tokens in cross attention."""
    transformer = WanTransformer3DModel(**WAN, **SEEING, in_channels=36)
    pipe = WanImageToVideoPipeline(**parts(), **eye(), transformer=transformer)
    return with_random_weights(pipe, 261)


def wan_from_picture_two_experts() -> DiffusionPipeline:
    """Wan 2.2 A14B: channels for mask and first frame, two transformers."""
    pipe = WanImageToVideoPipeline(
        **parts(),
        transformer=WanTransformer3DModel(**WAN, in_channels=36),
        transformer_2=WanTransformer3DModel(**WAN, in_channels=36),
        boundary_ratio=0.9,
    )
    return with_random_weights(pipe, 262)


def wan_from_picture_time_per_token() -> DiffusionPipeline:
    """Wan 2.2 TI2V 5B: the first frame of the latents is the picture, at time zero."""
    pipe = WanImageToVideoPipeline(
        **parts(), transformer=WanTransformer3DModel(**WAN), expand_timesteps=True
    )
    return with_random_weights(pipe, 263)


def wan_from_video() -> DiffusionPipeline:
    """Begins from a video with noise."""
    pipe = WanVideoToVideoPipeline(**parts(), transformer=WanTransformer3DModel(**WAN))
    return with_random_weights(pipe, 264)


def wan_vace() -> DiffusionPipeline:
    """A control branch within the transformer that sees video and mask."""
    transformer = WanVACETransformer3DModel(**WAN, vace_layers=[0], vace_in_channels=96)
    pipe = WanVACEPipeline(**parts(), transformer=transformer)
    return with_random_weights(pipe, 265)


def wan_animate() -> DiffusionPipeline:
    """A person's picture moved by the poses and the faces of videos."""
    transformer = WanAnimateTransformer3DModel(
        **WAN,
        **SEEING,
        in_channels=36,
        latent_channels=16,
        motion_encoder_size=16,
        motion_style_dim=16,
        motion_dim=4,
        motion_encoder_dim=16,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    pipe = WanAnimatePipeline(**parts(), **eye(), transformer=transformer)
    with_random_weights(pipe, 266)
    for weight in pipe.transformer.motion_encoder.parameters():
        if weight.ndim > 1:
            weight.data *= weight[0].numel() ** 0.5  # its layers divide by this themselves
    return pipe


def skyreels_from_picture() -> DiffusionPipeline:
    """Channels for mask and first frame, and a picture's tokens in cross attention."""
    transformer = SkyReelsV2Transformer3DModel(**WAN, **SEEING, in_channels=36)
    eyes = {**eye(), "image_encoder": encoders.clip_vision()}
    pipe = SkyReelsV2ImageToVideoPipeline(**parts(), **eyes, transformer=transformer)
    return with_random_weights(pipe, 267)


def skyreels_forcing() -> dict[str, Any]:
    """The parts of diffusion forcing."""
    transformer = SkyReelsV2Transformer3DModel(**WAN, inject_sample_info=True)
    return {**parts(), "transformer": transformer}


def forcing_from_picture() -> DiffusionPipeline:
    """A scheduler and a time for each latent frame, the first of which is the picture."""
    pipe = SkyReelsV2DiffusionForcingImageToVideoPipeline(**skyreels_forcing())
    return with_random_weights(pipe, 268)


def forcing_from_video() -> DiffusionPipeline:
    """A scheduler and a time for each latent frame, the first of which are the video."""
    pipe = SkyReelsV2DiffusionForcingVideoToVideoPipeline(**skyreels_forcing())
    return with_random_weights(pipe, 269)


def lucy() -> DiffusionPipeline:
    """Edits a video: its latents are channels."""
    transformer = WanTransformer3DModel(**WAN, in_channels=32)
    pipe = LucyEditPipeline(**parts(), transformer=transformer, expand_timesteps=True)
    return with_random_weights(pipe, 270)


def chrono_edit() -> DiffusionPipeline:
    """Edits a picture as a video of two latent frames."""
    transformer = ChronoEditTransformer3DModel(**WAN, **SEEING, in_channels=36)
    pipe = ChronoEditPipeline(**parts(), **eye(), transformer=transformer)
    return with_random_weights(pipe, 271)


_PICTURE = {**SHORT, "image": picture()}
_VIDEO = {**SHORT, "video": video(5)}
_MOVED = {k: v for k, v in _PICTURE.items() if k != "num_frames"}

TOYS = (
    Toy("WanImageToVideoPipeline", wan_from_picture, _PICTURE),
    Toy("WanImageToVideoPipeline", wan_from_picture_two_experts, _PICTURE),
    Toy("WanImageToVideoPipeline", wan_from_picture_time_per_token, _PICTURE),
    Toy(
        "WanVideoToVideoPipeline",
        wan_from_video,
        {k: v for k, v in _VIDEO.items() if k != "num_frames"},
    ),
    Toy("WanVACEPipeline", wan_vace, {**_VIDEO, "mask": [mask()] * 5}),
    Toy(
        "WanAnimatePipeline",
        wan_animate,
        {
            **_MOVED,
            "pose_video": video(5),
            "face_video": video(5, 16),
            "segment_frame_length": 5,
        },
    ),
    Toy("SkyReelsV2ImageToVideoPipeline", skyreels_from_picture, _PICTURE),
    Toy("SkyReelsV2DiffusionForcingImageToVideoPipeline", forcing_from_picture, _PICTURE),
    Toy(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        forcing_from_video,
        {**_VIDEO, "num_frames": 9, "overlap_history": 5, "base_num_frames": 9},
    ),
    Toy("LucyEditPipeline", lucy, _VIDEO),
    Toy("ChronoEditPipeline", chrono_edit, _PICTURE),
)
"""The name of the function tells two of one class apart."""
