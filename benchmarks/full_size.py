"""Pipelines with a denoiser of a public model's size and random weights, behind small text encoders of its widths."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
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
)

from examples.shapes import models
from tests.pipelines import behind_wide_text, t5_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import ModelMixin

SPREAD = 0.02
"""Standard deviation of random weights."""


SD15_CHANNELS, SMALL_CHANNELS = (320, 640, 1280, 1280), (32, 32, 64, 64)


def sd15(folder: Path, channels: tuple[int, ...] = SD15_CHANNELS) -> None:
    """Stable Diffusion 1.5's U-Net, 860 M, float32; with `SMALL_CHANNELS` one to try things on."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=channels,
    )
    behind_wide_text(unet).save_pretrained(folder)


def sdxl(folder: Path) -> None:
    """SDXL's U-Net, 2.6 B, float16."""
    behind_two_texts(_filled(sdxl_unet(), torch.float16)).save_pretrained(folder)


def sdxl_unet() -> UNet2DConditionModel:
    """On the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        )


def behind_two_texts(unet: UNet2DConditionModel) -> StableDiffusionXLPipeline:
    """A pipeline around `unet` with the interfaces of SDXL."""
    words = _words()
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip(words, 768)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_clip(words, 1280)).eval(),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def narrow_flux(folder: Path) -> None:
    """A transformer of FLUX.1's width with one block of each kind, 0.5 B, float32."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    _flux_pipeline(transformer).save_pretrained(folder)


def flux(folder: Path) -> None:
    """FLUX.1-dev's transformer, 12 B, bfloat16; its weights are zeros that take no room on disk."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True).to(torch.bfloat16)
    stand_in = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
    )
    pipeline = _flux_pipeline(stand_in)
    pipeline.save_pretrained(folder)
    place = folder / "transformer"
    for file in place.iterdir():
        file.unlink()
    transformer.save_config(place)
    _save_zeros(transformer, place / "diffusion_pytorch_model.safetensors")


def _flux_pipeline(transformer: FluxTransformer2DModel) -> FluxPipeline:
    """A pipeline around `transformer` with the interfaces of FLUX.1."""
    words = _words()
    t5 = T5Config(vocab_size=128, d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=8)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(16),
        text_encoder=CLIPTextModel(_clip(words, 768)).eval(),
        tokenizer=words,
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


def _filled(model: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """A model made without memory, with random weights."""
    torch.manual_seed(0)
    model = model.to(dtype).to_empty(device="cpu").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, SPREAD)
    return model.eval()


def _save_zeros(model: ModelMixin, file: Path) -> None:
    """All tensors of `model` as zeros in a safetensors file with a hole in the place of its data."""
    header, end = {}, 0
    for name, tensor in model.state_dict().items():
        begin, end = end, end + tensor.element_size() * math.prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def _words() -> CLIPTokenizer:
    words = models.tokenizer()
    words.model_max_length = 77
    return words


def _clip(words: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        max_position_embeddings=77,
        eos_token_id=words.eos_token_id,
    )


def _vae(channels: int) -> AutoencoderKL:
    """Factor 8."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=4,
    )
