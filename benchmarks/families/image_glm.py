"""GLM-Image: a language model first samples tokens of the picture, then diffusion paints them."""

from __future__ import annotations

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
)
from transformers import (
    GlmImageConfig,
    GlmImageForConditionalGeneration,
    GlmImageImageProcessorPil,
    GlmImageProcessor,
    PreTrainedTokenizerFast,
)

from benchmarks.families import autoencoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

TOKENS = 64
"""How many kinds of picture tokens there are."""

START, END = "<|dit_token_16384|>", "<|dit_token_16385|>"
"""Around the picture's tokens."""


def tokenizer() -> PreTrainedTokenizerFast:
    """With the marks that the processor asks for."""
    marks = {
        "image_token": "<|image|>",
        "image_end_token": END,
        "grid_bos_token": "<|grid_bos|>",
        "grid_eos_token": "<|grid_eos|>",
    }
    return words.byte_level((), bos_token=START, extra_special_tokens=marks, padding_side="left")


def sampler(marks: PreTrainedTokenizerFast) -> GlmImageForConditionalGeneration:
    """Two layers; no token ends the text, so that all of the picture is sampled."""
    own = ("head_dim", "tie_word_embeddings", "bos_token_id", "eos_token_id")
    config = GlmImageConfig(
        text_config={
            **{name: value for name, value in texts.DECODER.items() if name not in own},
            "num_hidden_layers": 2,
            "vision_vocab_size": TOKENS,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [2, 1, 1],
                "partial_rotary_factor": 0.5,
                "rope_theta": 1e4,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 16,
            "image_size": 64,
        },
        vq_config={"embed_dim": 16, "num_embeddings": TOKENS, "latent_channels": 16},
        image_token_id=marks.convert_tokens_to_ids("<|image|>"),
        image_start_token_id=marks.convert_tokens_to_ids(START),
        image_end_token_id=marks.convert_tokens_to_ids(END),
    )
    return GlmImageForConditionalGeneration(config)


def glm_image() -> GlmImagePipeline:
    """Two joint blocks, two calls per step; words in quotes are read as bytes too."""
    marks = tokenizer()
    transformer = GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        text_embed_dim=texts.WIDTH,
        time_embed_dim=32,
        condition_dim=16,
        prior_vq_quantizer_codebook_size=TOKENS,
    )
    vae = autoencoders.kl(levels=4)
    vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 1.1, 1.2, 1.3])
    pipe = GlmImagePipeline(
        tokenizer=words.byt5(),
        processor=GlmImageProcessor(
            image_processor=GlmImageImageProcessorPil(),
            tokenizer=marks,
            chat_template=words.CHATML,
        ),
        text_encoder=texts.byt5_encoder(),
        vision_language_encoder=sampler(marks),
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )
    return with_random_weights(pipe, 13)


TOYS = (Toy("GlmImagePipeline", glm_image, {"height": 128, "width": 128}),)
