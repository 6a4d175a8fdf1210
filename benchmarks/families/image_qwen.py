"""Text to image, the prompt read by Qwen2.5-VL."""

from __future__ import annotations

from diffusers import (
    AdaptiveProjectedMixGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from benchmarks.families import autoencoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
"""Of a transformer 32 wide."""


def qwen_image() -> QwenImagePipeline:
    """Two joint blocks, two calls per step, renormalised guidance."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        **HEADS,
        joint_attention_dim=texts.WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9),
        vae=autoencoders.qwen_image(),
        text_encoder=texts.qwen25_vl(),
        tokenizer=words.qwen(),
        transformer=transformer,
    )
    return with_random_weights(pipe, 3)


def hunyuan_image() -> HunyuanImagePipeline:
    """Two joint blocks and two single ones; a guider with memory, quoted words read as bytes."""
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        **HEADS,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=texts.WIDTH,
        text_embed_2_dim=texts.WIDTH,
        rope_axes_dim=(8, 8),
    )
    pipe = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=autoencoders.hunyuan_image(),
        text_encoder=texts.qwen25_vl(layers=4),
        tokenizer=words.qwen(),
        text_encoder_2=texts.byt5_encoder(),
        tokenizer_2=words.byt5(),
        transformer=transformer,
        guider=AdaptiveProjectedMixGuidance(
            guidance_scale=3.5, adaptive_projected_guidance_start_step=1
        ),
    )
    return with_random_weights(pipe, 8)


def longcat() -> LongCatImagePipeline:
    """Two joint blocks and two single ones; two calls per step, renormalised guidance.

    A tokenizer stands in for the processor, which asks for torchvision.
    """
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
        joint_attention_dim=texts.WIDTH,
        pooled_projection_dim=texts.WIDTH,
        axes_dims_rope=[4, 6, 6],
    )
    pipe = LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.kl(16, shift=0.1),
        text_encoder=texts.qwen25_vl(),
        tokenizer=words.qwen(),
        text_processor=words.qwen(),
        transformer=transformer,
    )
    return with_random_weights(pipe, 62)


def kandinsky5() -> Kandinsky5T2IPipeline:
    """One text block and two of the picture; sizes are those of the class, from 640x1408 on."""
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=texts.WIDTH,
        in_text_dim2=texts.WIDTH,
        time_dim=32,
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
    )
    words_2 = words.clip()
    pipe = Kandinsky5T2IPipeline(
        transformer=transformer,
        vae=autoencoders.kl(levels=4),
        text_encoder=texts.qwen25_vl(),
        tokenizer=words.qwen(),
        text_encoder_2=texts.clip(words_2),
        tokenizer_2=words_2,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return with_random_weights(pipe, 66)


SQUARE = {"height": 32, "width": 32}

TOYS = (
    Toy("QwenImagePipeline", qwen_image, {**SQUARE, "max_sequence_length": 48}),
    Toy("HunyuanImagePipeline", hunyuan_image, {"height": 16, "width": 16}),
    Toy("LongCatImagePipeline", longcat, {**SQUARE, "enable_prompt_rewrite": False}),
    Toy(
        "Kandinsky5T2IPipeline",
        kandinsky5,
        {"height": 640, "width": 1408, "max_sequence_length": 48},
    ),
)
