"""U-Nets that make videos from a picture or a video."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKLTemporalDecoder,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    PIAPipeline,
    SparseControlNetModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    VideoToVideoSDPipeline,
)
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet

from benchmarks.families import encoders, sight, texts, video_unet, words
from benchmarks.families.pictures import picture, video
from benchmarks.families.stable_diffusion import controlnet, picture_vae, strong, unet
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def stable_video() -> DiffusionPipeline:
    """Stable Video Diffusion: no text; another scale of guidance for each frame."""
    pipe = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            force_upcast=False,
        ),
        image_encoder=sight.clip_vision_224(),
        unet=UNetSpatioTemporalConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=texts.WIDTH,
            num_attention_heads=2,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=2,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            timestep_type="continuous",
            timestep_spacing="leading",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
        feature_extractor=encoders.clip_pictures(),
    )
    return with_random_weights(pipe, 291)


def animated() -> dict[str, Any]:
    """The parts of AnimateDiff before its U-Nets are joined."""
    built = video_unet.animate_diff().components
    return {
        **{k: v for k, v in built.items() if k not in ("image_encoder", "feature_extractor")},
        "unet": unet(),
        "motion_adapter": video_unet.motion((16, 24)),
    }


def animate_from_video() -> DiffusionPipeline:
    """AnimateDiff that begins from a video with noise."""
    return with_random_weights(AnimateDiffVideoToVideoPipeline(**animated()), 292)


def animate_beside_controlnet() -> DiffusionPipeline:
    """AnimateDiff with a ControlNet that sees each frame."""
    parts = animated()
    pipe = AnimateDiffControlNetPipeline(**parts, controlnet=controlnet(parts["unet"]))
    return strong(with_random_weights(pipe, 293), "controlnet")


def animate_from_video_beside_controlnet() -> DiffusionPipeline:
    """AnimateDiff that begins from a video with noise, with a ControlNet."""
    parts = animated()
    beside = controlnet(parts["unet"])
    pipe = AnimateDiffVideoToVideoControlNetPipeline(**parts, controlnet=beside)
    return strong(with_random_weights(pipe, 294), "controlnet")


def animate_beside_sparse_controlnet() -> DiffusionPipeline:
    """AnimateDiff with a ControlNet that sees some of the frames."""
    sparse = SparseControlNetModel(
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        cross_attention_dim=texts.WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 8, 8),
        motion_num_attention_heads=2,
        concat_conditioning_mask=True,
        use_simplified_condition_embedding=True,
    )
    pipe = AnimateDiffSparseControlNetPipeline(**animated(), controlnet=sparse)
    return strong(with_random_weights(pipe, 295), "controlnet")


def pia() -> DiffusionPipeline:
    """A picture moved: its latents and a mask are channels."""
    parts = {**animated(), "unet": unet(9)}
    return with_random_weights(PIAPipeline(**parts), 296)


def video_to_video() -> DiffusionPipeline:
    """A U-Net of three dimensions that begins from a video with noise."""
    return VideoToVideoSDPipeline(**video_unet.text_to_video().components)


def i2vgen_xl() -> DiffusionPipeline:
    """A U-Net of three dimensions that sees the picture's latents and tokens."""
    pipe = I2VGenXLPipeline(
        vae=picture_vae(),
        text_encoder=encoders.clip(words.clip()),
        tokenizer=words.clip(),
        image_encoder=encoders.clip_vision(),
        feature_extractor=encoders.clip_pictures(),
        unet=I2VGenXLUNet(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            attention_head_dim=8,
            cross_attention_dim=texts.WIDTH,
            norm_num_groups=8,
        ),
        scheduler=video_unet.ddim(),
    )
    return with_random_weights(pipe, 297)


_SIZE = {"height": 32, "width": 32}
_FRAMES = {**_SIZE, "num_frames": 2}

TOYS = (
    Toy(
        "StableVideoDiffusionPipeline",
        stable_video,
        {**_FRAMES, "image": picture(), "max_guidance_scale": 3.0},
    ),
    Toy("AnimateDiffVideoToVideoPipeline", animate_from_video, {**_SIZE, "video": video(2)}),
    Toy(
        "AnimateDiffControlNetPipeline",
        animate_beside_controlnet,
        {**_FRAMES, "conditioning_frames": video(2)},
    ),
    Toy(
        "AnimateDiffVideoToVideoControlNetPipeline",
        animate_from_video_beside_controlnet,
        {**_SIZE, "video": video(2), "conditioning_frames": video(2)[::-1]},
    ),
    Toy(
        "AnimateDiffSparseControlNetPipeline",
        animate_beside_sparse_controlnet,
        {**_FRAMES, "conditioning_frames": [picture()]},
    ),
    Toy("PIAPipeline", pia, {**_FRAMES, "image": picture()}),
    Toy("VideoToVideoSDPipeline", video_to_video, {"video": video(2)}),
    # Skipping a layer of CLIP, its default, does not work with transformers 5.
    Toy("I2VGenXLPipeline", i2vgen_xl, {**_FRAMES, "image": picture(), "clip_skip": None}),
)
