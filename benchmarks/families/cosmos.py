"""Cosmos: worlds from text, and on from a picture."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLCosmos,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from benchmarks.families import texts, words
from benchmarks.families.pictures import picture
from benchmarks.families.toy import Toy
from benchmarks.families.unguarded import Unguarded
from benchmarks.families.video_autoencoders import wan_vae
from benchmarks.families.video_dit import SMALL
from benchmarks.families.video_wan import unipc
from benchmarks.families.weights import with_random_weights

COSMOS = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": texts.WIDTH,
    "adaln_lora_dim": 8,
    "max_size": (4, 32, 32),
    "concat_padding_mask": False,
}
"""Two blocks. The mask of padding, which the published ones read, is resized by torchvision."""


def first(channels: int = 4) -> dict[str, Any]:
    """The parts of Cosmos 1, whose network takes `channels`."""
    return {
        "text_encoder": texts.t5_encoder(),
        "tokenizer": words.t5(),
        "transformer": CosmosTransformer3DModel(
            **COSMOS, in_channels=channels, out_channels=4, extra_pos_embed_type="learnable"
        ),
        "vae": AutoencoderKLCosmos(
            latent_channels=4,
            encoder_block_out_channels=(8, 8, 8, 8),
            decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,),
            resolution=64,
            num_layers=1,
            latents_mean=None,
            latents_std=None,
        ),
        "scheduler": EDMEulerScheduler(
            sigma_min=0.002, sigma_max=80, sigma_data=0.5, final_sigmas_type="sigma_min"
        ),
        "safety_checker": Unguarded(),
    }


def text_to_world() -> DiffusionPipeline:
    """Cosmos 1: two calls per step, the prediction made a picture before the step."""
    return with_random_weights(CosmosTextToWorldPipeline(**first()), 371)


def video_to_world() -> DiffusionPipeline:
    """Cosmos 1: latents of the first frames and two masks are channels."""
    return with_random_weights(CosmosVideoToWorldPipeline(**first(5)), 372)


def second_video_to_world() -> DiffusionPipeline:
    """Cosmos 2: each frame is told its time, the first ones almost none."""
    pipe = Cosmos2VideoToWorldPipeline(
        text_encoder=texts.t5_encoder(),
        tokenizer=words.t5(),
        transformer=CosmosTransformer3DModel(
            **COSMOS, in_channels=17, out_channels=16, extra_pos_embed_type=None
        ),
        vae=wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=Unguarded(),
    )
    return with_random_weights(pipe, 373)


def predict() -> DiffusionPipeline:
    """Cosmos 2.5: all layers of a language model are the text; from text alone here."""
    pipe = Cosmos2_5_PredictBasePipeline(
        text_encoder=texts.qwen25_vl(),
        tokenizer=words.qwen(),
        transformer=CosmosTransformer3DModel(
            **COSMOS,
            in_channels=17,
            out_channels=16,
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=2 * texts.WIDTH,
            encoder_hidden_states_channels=texts.WIDTH,
        ),
        vae=wan_vae(),
        scheduler=unipc(5.0),
        safety_checker=Unguarded(),
    )
    return with_random_weights(pipe, 374)


_LONG = {**SMALL, "num_frames": 9, "max_sequence_length": 32}
_SHORT = {**SMALL, "max_sequence_length": 64}

FROM_TEXT = (
    Toy("CosmosTextToWorldPipeline", text_to_world, _LONG),
    Toy("Cosmos2_5_PredictBasePipeline", predict, _SHORT),
)
FROM_PICTURE = (
    Toy("CosmosVideoToWorldPipeline", video_to_world, {**_LONG, "image": picture()}),
    Toy("Cosmos2VideoToWorldPipeline", second_video_to_world, {**_SHORT, "image": picture()}),
)
