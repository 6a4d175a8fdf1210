"""Text to image, the prompt read by a Gemma."""

from __future__ import annotations

from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)

from benchmarks.families import autoencoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def lumina() -> LuminaPipeline:
    """Two blocks that learn their variance too; positions are stretched by the timestep."""
    transformer = LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=texts.WIDTH,
    )
    pipe = LuminaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoders.kl(levels=4),
        text_encoder=texts.gemma1(),
        tokenizer=words.gemma(),
    )
    return with_random_weights(pipe, 80)


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


def sana_sprint() -> SanaSprintPipeline:
    """Guidance is an input of its network, each step adds noise."""
    pipe = SanaSprintPipeline(
        tokenizer=words.gemma(),
        text_encoder=texts.gemma2(),
        vae=autoencoders.deep_compression(),
        transformer=sana_transformer(guidance=True),
        scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
    )
    return with_random_weights(pipe, 81)


SHORT = {"height": 32, "width": 32, "max_sequence_length": 48, "use_resolution_binning": False}
SQUARE = {"height": 64, "width": 64}

TOYS = (
    Toy("LuminaPipeline", lumina, {**SQUARE, "max_sequence_length": 32, "clean_caption": False}),
    Toy("Lumina2Pipeline", lumina2, {**SQUARE, "max_sequence_length": 64}),
    Toy("SanaPipeline", sana, SHORT),
    Toy(
        "SanaSprintPipeline",
        sana_sprint,
        {**SHORT, "intermediate_timesteps": None},
    ),
)
