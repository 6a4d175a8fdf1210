"""Text to video by U-Nets."""

from __future__ import annotations

from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    MotionAdapter,
    TextToVideoSDPipeline,
    TextToVideoZeroSDXLPipeline,
    UNet3DConditionModel,
)

from benchmarks.families import encoders, texts, words
from benchmarks.families.pictured_sd import parts, parts_xl
from benchmarks.families.stable_diffusion import SCHEDULE, picture_vae
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def motion(widths: tuple[int, ...]) -> MotionAdapter:
    """One layer over time after each layer of a U-Net."""
    return MotionAdapter(
        block_out_channels=widths,
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        use_motion_mid_block=False,
    )


def ddim() -> DDIMScheduler:
    """The scheduler of AnimateDiff."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="linspace",
    )


def animate_diff() -> AnimateDiffPipeline:
    """Stable Diffusion 1.5 with layers over time; frames are a batch inside."""
    built = {k: v for k, v in parts().items() if k not in ("safety_checker", "scheduler")}
    built.pop("requires_safety_checker")
    pipe = AnimateDiffPipeline(**built, motion_adapter=motion((16, 24)), scheduler=ddim())
    return with_random_weights(pipe, 141)


def animate_diff_xl() -> AnimateDiffSDXLPipeline:
    """Stable Diffusion XL with layers over time."""
    built = {k: v for k, v in parts_xl().items() if k not in ("add_watermarker", "scheduler")}
    pipe = AnimateDiffSDXLPipeline(**built, motion_adapter=motion((16, 32)), scheduler=ddim())
    return with_random_weights(pipe, 142)


def text_to_video() -> TextToVideoSDPipeline:
    """ModelScope: a U-Net of three dimensions."""
    pipe = TextToVideoSDPipeline(
        vae=picture_vae(),
        text_encoder=encoders.clip(words.clip()),
        tokenizer=words.clip(),
        unet=UNet3DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            attention_head_dim=8,
            cross_attention_dim=texts.WIDTH,
            norm_num_groups=8,
        ),
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1),
    )
    return with_random_weights(pipe, 143)


def video_zero_xl() -> TextToVideoZeroSDXLPipeline:
    """Stable Diffusion XL whose frames look at the first one."""
    built = {k: v for k, v in parts_xl().items() if k != "add_watermarker"}
    pipe = TextToVideoZeroSDXLPipeline(**{**built, "scheduler": ddim()})
    return with_random_weights(pipe, 145)


_SIZE = {"height": 32, "width": 32}
_ZERO = {**_SIZE, "video_length": 2, "t0": 1, "t1": 2, "motion_field_strength_x": 1}

TOYS = (
    Toy("AnimateDiffPipeline", animate_diff, {**_SIZE, "num_frames": 2}),
    Toy("AnimateDiffSDXLPipeline", animate_diff_xl, {**_SIZE, "num_frames": 2}),
    Toy("TextToVideoSDPipeline", text_to_video, {**_SIZE, "num_frames": 2}),
    Toy("TextToVideoZeroSDXLPipeline", video_zero_xl, _ZERO),
)
