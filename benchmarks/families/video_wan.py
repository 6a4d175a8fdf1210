"""Text to video: Wan, and relatives that make the video in pieces or in leaps."""

from __future__ import annotations

from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from benchmarks.families import texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import wan_vae
from benchmarks.families.video_dit import SMALL
from benchmarks.families.weights import with_random_weights

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


def forcing() -> SkyReelsV2DiffusionForcingPipeline:
    """A scheduler and a time for each latent frame."""
    pipe = SkyReelsV2DiffusionForcingPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=SkyReelsV2Transformer3DModel(**WAN, inject_sample_info=True),
        scheduler=unipc(8.0),
    )
    return with_random_weights(pipe, 131)


def any_flow() -> AnyFlowPipeline:
    """The network is told where the step begins and where it ends."""
    pipe = AnyFlowPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=AnyFlowTransformer3DModel(**WAN),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
    )
    return with_random_weights(pipe, 132)


def any_flow_far() -> AnyFlowFARPipeline:
    """One latent frame after the other, with a cache of keys and values."""
    pipe = AnyFlowFARPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=AnyFlowFARTransformer3DModel(**WAN, full_chunk_limit=2, chunk_partition=(1, 1)),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
    )
    return with_random_weights(pipe, 133)


def helios_transformer() -> HeliosTransformer3DModel:
    """Two blocks that see the history of the video."""
    return HeliosTransformer3DModel(
        **{k: v for k, v in WAN.items() if k != "rope_max_seq_len"}, rope_dim=(4, 4, 4)
    )


def helios() -> HeliosPipeline:
    """Pieces of two latent frames, each after the history before it."""
    pipe = HeliosPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=helios_transformer(),
        scheduler=HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True),
    )
    return with_random_weights(pipe, 134)


def helios_pyramid() -> HeliosPyramidPipeline:
    """Three sizes, the latents grow from one to the next."""
    pipe = HeliosPyramidPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.umt5_encoder(),
        vae=wan_vae(),
        transformer=helios_transformer(),
        # With a gamma of a third the covariance of the noise has no Cholesky factor, but for rounding.
        scheduler=HeliosScheduler(use_dynamic_shifting=True, gamma=0.3),
    )
    return with_random_weights(pipe, 135)


_PIECES = {**SHORT, "num_latent_frames_per_chunk": 2}
_PYRAMID = {"height": 64, "width": 64, "pyramid_num_inference_steps_list": [1, 1, 1]}

TOYS = (
    Toy("WanPipeline", wan, SHORT),
    Toy("WanPipeline", wan_two_experts, SHORT),
    Toy("WanPipeline", wan_time_per_token, SHORT),
    Toy("SkyReelsV2Pipeline", skyreels, SHORT),
    Toy("SkyReelsV2DiffusionForcingPipeline", forcing, SHORT),
    Toy("AnyFlowPipeline", any_flow, SHORT),
    Toy("AnyFlowFARPipeline", any_flow_far, SHORT),
    Toy("HeliosPipeline", helios, _PIECES),
    Toy("HeliosPyramidPipeline", helios_pyramid, {**_PIECES, **_PYRAMID}),
)
"""The name of the function tells two of one class apart."""
