"""Small pipelines with random weights, of shapes other than the shipped ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from examples import clip_text
from examples.shapes import models

SHIPPED = Path(__file__).parent.parent / "examples" / "shapes"


def tiny_vae(latent_channels: int = 4, shift: float | None = None) -> AutoencoderKL:
    """Factor 2: two levels."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=shift,
    )


def text_to_image(unet: UNet2DConditionModel, scheduler: object) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline around `unet`."""
    words = models.tokenizer()
    return StableDiffusionPipeline(
        vae=tiny_vae(unet.config.in_channels),
        text_encoder=models.text_encoder(words).eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def three_levels() -> StableDiffusionPipeline:
    """Three levels, one layer each, attention in one, linear projections, 12x12 latents."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=12,
        block_out_channels=(16, 16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=models.TEXT_WIDTH,
        norm_num_groups=4,
        use_linear_projection=True,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    return text_to_image(unet, scheduler)


def two_levels() -> StableDiffusionPipeline:
    """Two levels of unlike depth, two transformer blocks per attention, v-prediction, PNDM."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24),
        layers_per_block=(1, 2),
        transformer_layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=models.TEXT_WIDTH,
        norm_num_groups=8,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
        steps_offset=1,
    )
    return text_to_image(unet, scheduler)


def lcm() -> StableDiffusionPipeline:
    """Two levels; the U-Net embeds the guidance scale, so there are no halves."""
    torch.manual_seed(9)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=models.TEXT_WIDTH,
        norm_num_groups=8,
        time_cond_proj_dim=16,
    )
    scheduler = LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return text_to_image(unet, scheduler)


def learned_variance() -> DiTPipeline:
    """A DiT that predicts variances too, as DiT-XL/2 does."""
    torch.manual_seed(3)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        in_channels=4,
        out_channels=8,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    return DiTPipeline(
        transformer=transformer.eval(), vae=tiny_vae(), scheduler=models.dit_scheduler()
    )


def t5_tokenizer() -> T5Tokenizer:
    """Pieces of one letter, with the word boundary that such tokenizers have."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,-"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    vocabulary = [*pieces, *((letter, -2.0 - i / 100) for i, letter in enumerate(letters))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=32)


T5 = {"vocab_size": 80, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
"""A text encoder for `t5_tokenizer`."""


def t5_encoder() -> T5EncoderModel:
    """One layer, 64 wide."""
    return T5EncoderModel(T5Config(**T5)).eval()


def clip_with_projection(words: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """Two layers and a projection, all `width` wide."""
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=clip_text.LENGTH,
        projection_dim=width,
        eos_token_id=words.eos_token_id,
    )
    return CLIPTextModelWithProjection(config).eval()


def sdxl() -> StableDiffusionXLPipeline:
    """Two levels; without a negative prompt, zeros take its place."""
    torch.manual_seed(4)
    words = models.tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=models.TEXT_WIDTH + 32,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=models.text_encoder(words).eval(),
        text_encoder_2=clip_with_projection(words, 32),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet.eval(),
        scheduler=scheduler,
        add_watermarker=False,
    )


def sd3() -> StableDiffusion3Pipeline:
    """Three joint blocks, the first with a second attention as in SD 3.5 medium."""
    torch.manual_seed(5)
    words, pieces = models.tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=48,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(shift=0.1),
        text_encoder=clip_with_projection(words, 32),
        tokenizer=words,
        text_encoder_2=clip_with_projection(words, 16),
        tokenizer_2=words,
        text_encoder_3=t5_encoder(),
        tokenizer_3=pieces,
    )


def flux(*, guidance: bool) -> FluxPipeline:
    """Two joint blocks and two single ones."""
    torch.manual_seed(6)
    words, pieces = models.tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=models.TEXT_WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance),
        vae=tiny_vae(shift=0.1),
        text_encoder=models.text_encoder(words).eval(),
        tokenizer=words,
        text_encoder_2=t5_encoder(),
        tokenizer_2=pieces,
        transformer=transformer.eval(),
    )


def pixart(*, sigma: bool) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    """Three blocks; alpha at the size from which it is told the resolution."""
    torch.manual_seed(7)
    pieces = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=8 if sigma else 128,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        caption_channels=64,
        use_additional_conditions=not sigma,
    )
    cls = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return cls(
        tokenizer=pieces,
        text_encoder=t5_encoder(),
        vae=tiny_vae(),
        transformer=transformer.eval(),
        scheduler=DPMSolverMultistepScheduler(),
    )


def aura_flow() -> AuraFlowPipeline:
    """Two joint blocks and one single one."""
    torch.manual_seed(8)
    pieces = t5_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=256,
    )
    for parameter in transformer.joint_transformer_blocks.parameters():
        parameter.data *= 3  # so that the prompt can be seen
    return AuraFlowPipeline(
        tokenizer=pieces,
        text_encoder=UMT5EncoderModel(UMT5Config(**T5)).eval(),
        vae=tiny_vae(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


RANDOM: dict[str, Callable[[], DiffusionPipeline]] = {
    "three-levels": three_levels,
    "two-levels": two_levels,
    "learned-variance": learned_variance,
    "lcm": lcm,
    "sdxl": sdxl,
    "sd3": sd3,
    "flux-dev": partial(flux, guidance=True),
    "flux-schnell": partial(flux, guidance=False),
    "aura-flow": aura_flow,
    "pixart-alpha": partial(pixart, sigma=False),
    "pixart-sigma": partial(pixart, sigma=True),
}
"""Name -> how to make it."""


SD15_STAGES = {
    "down_blocks.0": 54.78,
    "down_blocks.1": 34.18,
    "down_blocks.2": 31.89,
    "down_blocks.3": 3.78,
    "mid_block": 6.05,
    "up_blocks.0": 12.90,
    "up_blocks.1": 75.77,
    "up_blocks.2": 83.41,
    "up_blocks.3": 98.78,
}
"""GMACs of one sample of `stable_diffusion_15` per stage, attention products included, computed from
the architecture."""


def stable_diffusion_15() -> StableDiffusionPipeline:
    """SD-1.5's U-Net without weights (meta device), behind a text encoder of the right width."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return behind_wide_text(unet)


def behind_wide_text(unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A pipeline around `unet` with the interfaces of SD-1.5: text `[77, 768]`, a VAE of factor 8."""
    words = models.tokenizer()
    words.model_max_length = 77
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=768,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=8,
            max_position_embeddings=77,
            eos_token_id=words.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder.eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=models.sd_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
