"""Text to image in two stages: a prior predicts a picture's embedding, a decoder the picture."""

from __future__ import annotations

from functools import partial

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    KandinskyCombinedPipeline,
    KandinskyPipeline,
    KandinskyPriorPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

from benchmarks.families import autoencoders, encoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def prior_transformer() -> PriorTransformer:
    """Two blocks over the text, its embedding, the time and the picture's embedding."""
    return PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, embedding_dim=texts.WIDTH
    )


def prior_scheduler() -> UnCLIPScheduler:
    """Predicts the embedding itself."""
    return UnCLIPScheduler(
        variance_type="fixed_small_log",
        prediction_type="sample",
        clip_sample=True,
        clip_sample_range=10.0,
    )


def kandinsky_prior(
    cls: type[KandinskyPriorPipeline | KandinskyV22PriorPipeline],
) -> KandinskyPriorPipeline | KandinskyV22PriorPipeline:
    """A prompt to the embedding of a picture."""
    tokenizer = words.clip()
    pipe = cls(
        prior=prior_transformer(),
        image_encoder=encoders.clip_vision(),
        text_encoder=encoders.clip_projected(tokenizer),
        tokenizer=tokenizer,
        scheduler=prior_scheduler(),
        image_processor=encoders.clip_pictures(),
    )
    return with_random_weights(pipe, 100)


def kandinsky_unet(condition: str) -> UNet2DConditionModel:
    """Two levels; `condition`: image, or text_image."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        addition_embed_type=condition,
        encoder_hid_dim_type="image_proj" if condition == "image" else "text_image_proj",
        encoder_hid_dim=texts.WIDTH,
        cross_attention_dim=texts.WIDTH,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        projection_class_embeddings_input_dim=texts.WIDTH,
    )


def kandinsky() -> KandinskyPipeline:
    """Embedding and prompt to a picture; predicts variances too."""
    pipe = KandinskyPipeline(
        text_encoder=encoders.multilingual_clip(),
        tokenizer=words.xlm_roberta(),
        unet=kandinsky_unet("text_image"),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        movq=autoencoders.movq(),
    )
    return with_random_weights(pipe, 101, gain=1)


def kandinsky22() -> KandinskyV22Pipeline:
    """Embedding to a picture; predicts variances too."""
    pipe = KandinskyV22Pipeline(
        unet=kandinsky_unet("image"),
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, variance_type="learned_range", clip_sample=True
        ),
        movq=autoencoders.movq(),
    )
    return with_random_weights(pipe, 102)


def kandinsky_combined() -> KandinskyCombinedPipeline:
    """Both stages of Kandinsky 2.1."""
    prior = kandinsky_prior(KandinskyPriorPipeline).components
    parts = {f"prior_{name}": part for name, part in prior.items()}
    return KandinskyCombinedPipeline(**kandinsky().components, **parts)


def kandinsky22_combined() -> KandinskyV22CombinedPipeline:
    """Both stages of Kandinsky 2.2."""
    prior = kandinsky_prior(KandinskyV22PriorPipeline).components
    parts = {f"prior_{name}": part for name, part in prior.items()}
    return KandinskyV22CombinedPipeline(**kandinsky22().components, **parts)


def stable_cascade_prior() -> StableCascadePriorPipeline:
    """A prompt to latents of 42 pixels each."""
    tokenizer = words.clip()
    prior = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=16,
        conditioning_dim=32,
        block_out_channels=(32, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_image_in_channels=texts.WIDTH,
        clip_text_in_channels=texts.WIDTH,
        clip_text_pooled_in_channels=texts.WIDTH,
    )
    pipe = StableCascadePriorPipeline(
        tokenizer=tokenizer,
        text_encoder=encoders.clip_projected(tokenizer),
        prior=prior,
        scheduler=DDPMWuerstchenScheduler(),
    )
    return with_random_weights(pipe, 103)


def stable_unclip() -> StableUnCLIPPipeline:
    """The prior inside of the call, its embedding with noise as the class of the picture."""
    tokenizer = words.clip()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=texts.WIDTH,
        norm_num_groups=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * texts.WIDTH,
        use_linear_projection=True,
    )
    pipe = StableUnCLIPPipeline(
        prior_tokenizer=tokenizer,
        prior_text_encoder=encoders.clip_projected(tokenizer),
        prior=prior_transformer(),
        prior_scheduler=prior_scheduler(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=texts.WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer,
        text_encoder=encoders.clip(tokenizer),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            steps_offset=1,
            clip_sample=False,
        ),
        vae=autoencoders.kl(),
    )
    return with_random_weights(pipe, 105)


def embedding(*shape: int, seed: int) -> torch.Tensor:
    """What a prior might have made."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SQUARE = {"height": 64, "width": 64}
EMBEDDED = {
    "image_embeds": embedding(1, texts.WIDTH, seed=1),
    "negative_image_embeds": embedding(1, texts.WIDTH, seed=2),
}
FEW = {"prior_num_inference_steps": 3}

TOYS = (
    Toy("KandinskyPriorPipeline", partial(kandinsky_prior, KandinskyPriorPipeline)),
    Toy("KandinskyPipeline", kandinsky, {**SQUARE, **EMBEDDED}),
    Toy("KandinskyCombinedPipeline", kandinsky_combined, {**SQUARE, **FEW}),
    Toy("KandinskyV22PriorPipeline", partial(kandinsky_prior, KandinskyV22PriorPipeline)),
    Toy("KandinskyV22Pipeline", kandinsky22, {**SQUARE, **EMBEDDED}),
    Toy("KandinskyV22CombinedPipeline", kandinsky22_combined, {**SQUARE, **FEW}),
    Toy("StableCascadePriorPipeline", stable_cascade_prior, {"height": 336, "width": 336}),
    Toy("StableUnCLIPPipeline", stable_unclip, {"prior_num_inference_steps": 3}),
)
