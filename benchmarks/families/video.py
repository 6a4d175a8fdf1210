"""Text to video: Wan, LTX, HunyuanVideo, Kandinsky 5."""

from __future__ import annotations

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from benchmarks.families import clip, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import hunyuan_vae, ltx_vae, wan_vae
from benchmarks.families.weights import with_random_weights

SMALL = {"height": 32, "width": 32, "num_frames": 5}
"""Two latent frames of 4x4 where a pixel of the latents is 8x8 and 4 frames."""

SHORT = {**SMALL, "max_sequence_length": 32}
"""So that the prompt is not a few tokens among hundreds of empty ones."""

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": texts.WIDTH,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
"""A transformer of Wan with two blocks."""


def unipc(shift: float) -> UniPCMultistepScheduler:
    """The scheduler of Wan and its relatives."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def wan() -> WanPipeline:
    """Wan 2.1: one transformer, two calls per step."""
    pipe = WanPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=WanTransformer3DModel(**WAN),
        scheduler=unipc(3.0),
    )
    return with_random_weights(pipe, 101)


def wan_two_experts() -> WanPipeline:
    """Wan 2.2 A14B: another transformer below a timestep of 875."""
    pipe = WanPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=WanTransformer3DModel(**WAN),
        transformer_2=WanTransformer3DModel(**WAN),
        boundary_ratio=0.875,
        scheduler=unipc(3.0),
    )
    return with_random_weights(pipe, 102)


def wan_time_per_token() -> WanPipeline:
    """Wan 2.2 TI2V 5B: every token is told its time."""
    pipe = WanPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=WanTransformer3DModel(**WAN),
        expand_timesteps=True,
        scheduler=unipc(5.0),
    )
    return with_random_weights(pipe, 103)


def skyreels() -> SkyReelsV2Pipeline:
    """SkyReels V2, of Wan's parts."""
    pipe = SkyReelsV2Pipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=SkyReelsV2Transformer3DModel(**WAN),
        scheduler=unipc(8.0),
    )
    return with_random_weights(pipe, 104)


def ltx_transformer() -> LTXVideoTransformer3DModel:
    """Two blocks."""
    return LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=texts.WIDTH,
    )


def ltx_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Shifted by the number of tokens, stretched to end at a tenth."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )


def ltx() -> LTXPipeline:
    """LTX 0.9: packed latents, halves batched."""
    pipe = LTXPipeline(
        scheduler=ltx_scheduler(),
        vae=ltx_vae(),
        text_encoder=texts.t5_encoder(),
        tokenizer=words.t5(),
        transformer=ltx_transformer(),
    )
    return with_random_weights(pipe, 105)


HUNYUAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": texts.WIDTH,
    "pooled_projection_dim": clip.WIDTH,
    "rope_axes_dim": (4, 6, 6),
}
"""Two joint blocks and two single ones."""


def hunyuan_video() -> HunyuanVideoPipeline:
    """The scale of the guidance is told to the network; a true guidance is possible as well."""
    pipe = HunyuanVideoPipeline(
        text_encoder=texts.llama(4),
        tokenizer=words.llama(),
        transformer=HunyuanVideoTransformer3DModel(in_channels=4, out_channels=4, **HUNYUAN),
        vae=hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip.clip_encoder(),
        tokenizer_2=clip.clip_tokenizer(),
    )
    return with_random_weights(pipe, 106)


KANDINSKY = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": texts.WIDTH,
    "in_text_dim2": clip.WIDTH,
    "time_dim": 32,
    "model_dim": 32,
    "ff_dim": 48,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (4, 6, 6),
}
"""Two blocks and one for the text."""


def kandinsky5() -> Kandinsky5T2VPipeline:
    """Channels last; five channels more are a condition that stays zero."""
    pipe = Kandinsky5T2VPipeline(
        transformer=Kandinsky5Transformer3DModel(**KANDINSKY, visual_cond=True),
        vae=hunyuan_vae(),
        text_encoder=texts.qwen25_vl(),
        tokenizer=words.qwen(),
        text_encoder_2=clip.clip_encoder(),
        tokenizer_2=clip.clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    return with_random_weights(pipe, 107)


TOYS = (
    Toy("WanPipeline", wan, SHORT),
    Toy("WanPipeline", wan_two_experts, SHORT),
    Toy("WanPipeline", wan_time_per_token, SHORT),
    Toy("SkyReelsV2Pipeline", skyreels, SHORT),
    Toy("LTXPipeline", ltx, {"height": 64, "width": 64, "num_frames": 9}),
    Toy("HunyuanVideoPipeline", hunyuan_video, SMALL),
    Toy("Kandinsky5T2VPipeline", kandinsky5, SMALL),
)
"""The name of the function tells two of one class apart."""
