"""Text to image by current classes, the prompt read by a language model."""

from __future__ import annotations

from diffusers import (
    AdaptiveProjectedMixGuidance,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from benchmarks.families import autoencoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
"""Of a transformer 32 wide."""


def flux2_transformer(*, guidance: bool) -> Flux2Transformer2DModel:
    """Two joint blocks and two single ones; reads two layers of the language model."""
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
        joint_attention_dim=2 * texts.WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def flux2() -> Flux2Pipeline:
    """FLUX.2 dev: guidance is an input of its network."""
    pipe = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoders.flux2(),
        text_encoder=texts.mistral3(),
        tokenizer=words.mistral(),
        transformer=flux2_transformer(guidance=True),
    )
    return with_random_weights(pipe, 1, gain=1.5)


def flux2_klein() -> Flux2KleinPipeline:
    """FLUX.2 klein base: two calls per step."""
    pipe = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoders.flux2(),
        text_encoder=texts.qwen3(),
        tokenizer=words.qwen(),
        transformer=flux2_transformer(guidance=False),
        is_distilled=False,
    )
    return with_random_weights(pipe, 2)


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


def z_image() -> ZImagePipeline:
    """Two blocks after one for the picture and one for the text alone."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=texts.WIDTH,
        axes_dims=[4, 6, 6],
    )
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoders.kl(shift=0.1159),
        text_encoder=texts.qwen3(),
        tokenizer=words.qwen(),
        transformer=transformer,
    )
    return with_random_weights(pipe, 4)


def cogview4() -> CogView4Pipeline:
    """Two joint blocks, two calls per step, text of any length."""
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        **HEADS,
        text_embed_dim=texts.WIDTH,
        time_embed_dim=32,
        condition_dim=16,
        sample_size=8,
    )
    pipe = CogView4Pipeline(
        tokenizer=words.glm(),
        text_encoder=texts.glm(),
        vae=autoencoders.kl(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )
    return with_random_weights(pipe, 5)


def lumina2() -> Lumina2Pipeline:
    """Two blocks after one for the picture and one for the text alone; two calls per step."""
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        cap_feat_dim=texts.WIDTH,
    )
    pipe = Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=autoencoders.kl(levels=4, shift=0.1159),
        text_encoder=texts.gemma2(),
        tokenizer=words.gemma(),
    )
    return with_random_weights(pipe, 6)


def sana_transformer(*, guidance: bool = False, **settings: object) -> SanaTransformer2DModel:
    """Two blocks with linear attention."""
    return SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=texts.WIDTH,
        sample_size=8,
        guidance_embeds=guidance,
        **settings,
    )


def sana() -> SanaPipeline:
    """Both halves of the guidance in one call; a long instruction before the prompt."""
    pipe = SanaPipeline(
        tokenizer=words.gemma(),
        text_encoder=texts.gemma2(),
        vae=autoencoders.deep_compression(),
        transformer=sana_transformer(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
    return with_random_weights(pipe, 7)


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


SQUARE = {"height": 32, "width": 32}
SHORT = {**SQUARE, "max_sequence_length": 48}

TOYS = (
    Toy(
        "Flux2Pipeline",
        flux2,
        {**SQUARE, "max_sequence_length": 64, "text_encoder_out_layers": (1, 2)},
    ),
    Toy("Flux2KleinPipeline", flux2_klein, {**SHORT, "text_encoder_out_layers": (1, 2)}),
    Toy("QwenImagePipeline", qwen_image, SHORT),
    Toy("ZImagePipeline", z_image, SHORT),
    Toy("CogView4Pipeline", cogview4, SHORT),
    Toy("Lumina2Pipeline", lumina2, {"height": 64, "width": 64, "max_sequence_length": 64}),
    Toy("SanaPipeline", sana, {**SHORT, "use_resolution_binning": False}),
    Toy("HunyuanImagePipeline", hunyuan_image, {"height": 16, "width": 16}),
)
