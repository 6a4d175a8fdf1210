"""Text to image by transformers, the prompt read by T5 or CLIP."""

from __future__ import annotations

from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from benchmarks.families import autoencoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def chroma() -> ChromaPipeline:
    """Two joint blocks and two single ones, all modulations from one small network."""
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=texts.WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=64,
        approximator_hidden_dim=32,
        approximator_layers=2,
    )
    pipe = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.kl(shift=0.1159),
        text_encoder=texts.t5_encoder(),
        tokenizer=words.t5(),
        transformer=transformer,
    )
    return with_random_weights(pipe, 20, gain=1)


SHORT = {"height": 32, "width": 32, "max_sequence_length": 24}

TOYS = (Toy("ChromaPipeline", chroma, SHORT),)
