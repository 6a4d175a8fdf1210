"""Pipelines from text to video."""

from __future__ import annotations

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

from benchmarks.families.random_weights import randomise
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import hunyuan_vae, ltx_vae, wan_vae
from benchmarks.families.video_texts import (
    LLAMA_MARKS,
    QWEN_MARKS,
    WIDTH,
    chat_tokenizer,
    clip_encoder,
    clip_tokenizer,
    llama,
    qwen_vl,
    t5_encoder,
    t5_tokenizer,
    umt5_encoder,
)

SMALL = {"height": 32, "width": 32, "num_frames": 5}
"""Two latent frames."""


def wan_transformer() -> WanTransformer3DModel:
    """Two blocks."""
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        rope_max_seq_len=32,
    )


def wan() -> WanPipeline:
    """Wan 2.1: one transformer."""
    vae, text_encoder, transformer = wan_vae(), umt5_encoder(), wan_transformer()
    randomise(vae, text_encoder, transformer, seed=1)
    return WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def ltx() -> LTXPipeline:
    """LTX 0.9: the time is told to every token."""
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=WIDTH,
    )
    vae, text_encoder = ltx_vae(), t5_encoder()
    randomise(vae, text_encoder, transformer, seed=2)
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )


def hunyuan_video() -> HunyuanVideoPipeline:
    """The scale of the guidance is embedded."""
    words = chat_tokenizer(
        DEFAULT_PROMPT_TEMPLATE["template"], marks=LLAMA_MARKS, begin="<|begin_of_text|>"
    )
    short = clip_tokenizer()
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
    )
    vae, text_encoder, text_encoder_2 = hunyuan_vae(), llama(words), clip_encoder(short)
    randomise(vae, text_encoder, text_encoder_2, transformer, seed=3)
    return HunyuanVideoPipeline(
        text_encoder=text_encoder,
        tokenizer=words,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=text_encoder_2,
        tokenizer_2=short,
    )


def kandinsky5() -> Kandinsky5T2VPipeline:
    """Channels last; five of the channels are a condition that stays zero."""
    template = Kandinsky5T2VPipeline(*[None] * 7).prompt_template
    words, short = chat_tokenizer(template, marks=QWEN_MARKS), clip_tokenizer()
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=32,
        model_dim=32,
        ff_dim=48,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        visual_cond=True,
    )
    vae, text_encoder, text_encoder_2 = hunyuan_vae(), qwen_vl(words), clip_encoder(short)
    randomise(vae, text_encoder, text_encoder_2, transformer, seed=4)
    return Kandinsky5T2VPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        text_encoder_2=text_encoder_2,
        tokenizer_2=short,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )


TOYS = {
    "wan": Toy("WanPipeline", wan, SMALL),
    "ltx": Toy("LTXPipeline", ltx, {"height": 64, "width": 64, "num_frames": 9}),
    "hunyuan-video": Toy("HunyuanVideoPipeline", hunyuan_video, SMALL),
    "kandinsky5-video": Toy("Kandinsky5T2VPipeline", kandinsky5, SMALL),
}
"""Name -> toy."""
