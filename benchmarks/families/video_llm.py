"""Text to video, the prompt read by a language model."""

from __future__ import annotations

from diffusers import (
    AdaptiveProjectedGuidance,
    AutoencoderKLLTX2Audio,
    ClassifierFreeGuidance,
    DPMSolverMultistepScheduler,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

from benchmarks.families import encoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import (
    hunyuan15_vae,
    hunyuan_vae,
    ltx2_vae,
    magvit_vae,
    wan_vae,
)
from benchmarks.families.video_dit import KANDINSKY, SMALL, ltx_scheduler
from benchmarks.families.video_texts import gemma3, qwen2_vl, qwen25_text, t5_gemma2
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
"""Two blocks, 32 wide."""


def hunyuan_video15() -> HunyuanVideo15Pipeline:
    """The guidance is a part of its own, its scale no argument of the call."""
    pipe = HunyuanVideo15Pipeline(
        text_encoder=qwen25_text(4),
        tokenizer=words.qwen(),
        transformer=HunyuanVideo15Transformer3DModel(
            **HEADS,
            in_channels=9,
            out_channels=4,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=texts.WIDTH,
            text_embed_2_dim=texts.WIDTH,
            image_embed_dim=16,
            rope_axes_dim=(4, 6, 6),
            task_type="t2v",
        ),
        vae=hunyuan15_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=texts.byt5_encoder(),
        tokenizer_2=words.byt5(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    return with_random_weights(pipe, 121)


def sana_video() -> SanaVideoPipeline:
    """Linear attention over space and time, a long instruction before the prompt."""
    pipe = SanaVideoPipeline(
        tokenizer=words.gemma(),
        text_encoder=texts.gemma2(),
        vae=wan_vae(),
        transformer=SanaVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=texts.WIDTH,
            sample_size=4,
            rope_max_seq_len=32,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
    )
    return with_random_weights(pipe, 122)


def easy_animate() -> EasyAnimatePipeline:
    """EasyAnimate 5.1: a chat template, rotary positions."""
    pipe = EasyAnimatePipeline(
        vae=magvit_vae(),
        text_encoder=qwen2_vl(),
        tokenizer=words.qwen(),
        transformer=EasyAnimateTransformer3DModel(
            **HEADS,
            in_channels=4,
            out_channels=4,
            patch_size=2,
            sample_width=4,
            sample_height=4,
            mmdit_layers=2,
            time_embed_dim=16,
            add_norm_text_encoder=True,
            text_embed_dim=texts.WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return with_random_weights(pipe, 123)


def motif_video() -> MotifVideoPipeline:
    """A guidance that projects and remembers the last step."""
    pipe = MotifVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=15.0),
        vae=wan_vae(),
        text_encoder=t5_gemma2(),
        tokenizer=words.gemma(),
        transformer=MotifVideoTransformer3DModel(
            **HEADS,
            num_single_layers=2,
            mlp_ratio=2.0,
            text_embed_dim=texts.WIDTH,
            rope_axes_dim=(4, 6, 6),
        ),
        guider=AdaptiveProjectedGuidance(
            guidance_scale=8.0, adaptive_projected_guidance_rescale=12.0, eta=0.0
        ),
    )
    return with_random_weights(pipe, 124)


def kandinsky6() -> Kandinsky6TI2VAPipeline:
    """Kandinsky 6 without its sound."""
    pipe = Kandinsky6TI2VAPipeline(
        transformer=Kandinsky6Transformer3DModel(**KANDINSKY),
        vae=hunyuan_vae(),
        text_encoder=texts.qwen25_vl(),
        tokenizer=words.qwen(),
        text_encoder_2=encoders.clip(words.clip()),
        tokenizer_2=words.clip(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    return with_random_weights(pipe, 125)


def ltx2() -> LTX2Pipeline:
    """Video and sound together; three calls per step."""
    pipe = LTX2Pipeline(
        scheduler=ltx_scheduler(),
        vae=ltx2_vae(),
        audio_vae=AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1,), num_res_blocks=1, latent_channels=2, mel_bins=8
        ),
        text_encoder=gemma3(),
        tokenizer=words.gemma(),
        connectors=LTX2TextConnectors(
            caption_channels=texts.WIDTH,
            text_proj_in_factor=3,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=16,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=8,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=16,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=8,
            connector_rope_base_seq_len=32,
        ),
        transformer=LTX2VideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=16,
            num_layers=2,
            caption_channels=texts.WIDTH,
        ),
        vocoder=LTX2Vocoder(
            in_channels=16,
            hidden_channels=16,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
        ),
    )
    return with_random_weights(pipe, 126)


SHORT = {**SMALL, "max_sequence_length": 32}
TOYS = (
    Toy("HunyuanVideo15Pipeline", hunyuan_video15, SMALL),
    Toy(
        "SanaVideoPipeline",
        sana_video,
        {"height": 32, "width": 32, "frames": 5, "use_resolution_binning": False},
    ),
    Toy("EasyAnimatePipeline", easy_animate, SMALL),
    Toy("MotifVideoPipeline", motif_video, SHORT),
    Toy("Kandinsky6TI2VAPipeline", kandinsky6, {**SHORT, "sample_audio": False}),
    Toy(
        "LTX2Pipeline",
        ltx2,
        {
            "height": 64,
            "width": 64,
            "num_frames": 9,
            "max_sequence_length": 32,
            "spatio_temporal_guidance_blocks": [1],
        },
    ),
)
