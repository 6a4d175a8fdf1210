"""Text to video: LTX, HunyuanVideo, Kandinsky 5."""

from __future__ import annotations

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from benchmarks.families import encoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import hunyuan_vae, ltx_vae
from benchmarks.families.weights import with_random_weights

SMALL = {"height": 32, "width": 32, "num_frames": 5}
"""Two latent frames of 4x4 where a pixel of the latents is 8x8 and 4 frames."""


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
    "pooled_projection_dim": texts.WIDTH,
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
        text_encoder_2=encoders.clip(words.clip()),
        tokenizer_2=words.clip(),
    )
    return with_random_weights(pipe, 106)


KANDINSKY = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": texts.WIDTH,
    "in_text_dim2": texts.WIDTH,
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
        text_encoder_2=encoders.clip(words.clip()),
        tokenizer_2=words.clip(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    return with_random_weights(pipe, 107)


TOYS = (
    Toy("LTXPipeline", ltx, {"height": 64, "width": 64, "num_frames": 9}),
    Toy("HunyuanVideoPipeline", hunyuan_video, SMALL),
    Toy("Kandinsky5T2VPipeline", kandinsky5, SMALL),
)
