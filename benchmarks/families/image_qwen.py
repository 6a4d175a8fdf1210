"""Text to image by further classes, the prompt read by a Qwen."""

from __future__ import annotations

from functools import partial

from diffusers import (
    DreamLiteMobilePipeline,
    DreamLitePipeline,
    DreamLiteUNetModel,
    FlowMatchEulerDiscreteScheduler,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    ZImageOmniPipeline,
    ZImageTransformer2DModel,
)
from transformers import Siglip2ImageProcessorPil

from benchmarks.families import autoencoders, encoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
"""Of a transformer 32 wide."""


def krea2() -> Krea2Pipeline:
    """Two blocks, before them the layers of the language model are mixed; two calls per step."""
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        timestep_embed_dim=32,
        text_hidden_dim=texts.WIDTH,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=64,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.qwen_image(),
        text_encoder=texts.qwen3_vl_inner(),
        tokenizer=words.qwen(),
        transformer=transformer,
        text_encoder_select_layers=(1, 3),
    )
    return with_random_weights(pipe, 60)


def ovis() -> OvisImagePipeline:
    """Two joint blocks and two single ones; two calls per step."""
    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
        joint_attention_dim=texts.WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = OvisImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.kl(shift=0.1),
        text_encoder=texts.qwen3_inner(),
        tokenizer=words.qwen(),
        transformer=transformer,
    )
    return with_random_weights(pipe, 61)


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


def nucleus() -> NucleusMoEImagePipeline:
    """A dense block and two of experts; a tokenizer stands in for the processor."""
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        **HEADS,
        num_key_value_heads=1,
        joint_attention_dim=texts.WIDTH,
        axes_dims_rope=(4, 6, 6),
        dense_moe_strategy="leave_first_block_dense",
        num_experts=4,
        moe_intermediate_dim=32,
        capacity_factors=2.0,
    )
    pipe = NucleusMoEImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.qwen_image(),
        text_encoder=texts.qwen3_vl(),
        processor=words.qwen(),
    )
    return with_random_weights(pipe, 63)


def dreamlite_unet() -> DreamLiteUNetModel:
    """Two levels; the picture to edit lies beside the latents, as zeros here."""
    return DreamLiteUNetModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=(
            "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
            "DreamLiteCrossAttnDownBlock2D",
        ),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        cross_attention_dim=texts.WIDTH,
        use_linear_projection=True,
        addition_embed_type="time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16,
    )


def dreamlite(
    cls: type[DreamLitePipeline | DreamLiteMobilePipeline],
) -> DreamLitePipeline | DreamLiteMobilePipeline:
    """A tokenizer stands in for the processor, which is used for editing only."""
    pipe = cls(
        text_encoder=texts.qwen3_vl(),
        tokenizer=words.qwen(),
        processor=words.qwen(),
        vae=autoencoders.tiny(),
        unet=dreamlite_unet(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    return with_random_weights(pipe, 64)


def ideogram4_transformer() -> Ideogram4Transformer2DModel:
    """Two blocks; reads 13 layers of the language model."""
    return Ideogram4Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=64,
        adaln_dim=16,
        llm_features_dim=13 * texts.WIDTH,
        mrope_section=(4, 2, 2),
    )


def ideogram4() -> Ideogram4Pipeline:
    """The unconditional prediction has a network of its own, which sees the picture alone."""
    pipe = Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoders.flux2(),
        text_encoder=texts.qwen3_vl_inner(layers=36),
        tokenizer=words.qwen(),
        transformer=ideogram4_transformer(),
        unconditional_transformer=ideogram4_transformer(),
    )
    return with_random_weights(pipe, 65)


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
        text_encoder_2=encoders.clip(words_2),
        tokenizer_2=words_2,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return with_random_weights(pipe, 66)


def z_image_omni() -> ZImageOmniPipeline:
    """Z-Image with an eye for reference pictures, which are not given here."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=texts.WIDTH,
        siglip_feat_dim=texts.WIDTH,
        axes_dims=[4, 6, 6],
    )
    pipe = ZImageOmniPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoders.kl(shift=0.1159),
        text_encoder=texts.qwen3(),
        tokenizer=words.qwen(),
        transformer=transformer,
        siglip=encoders.siglip2(),
        siglip_processor=Siglip2ImageProcessorPil(),
    )
    return with_random_weights(pipe, 68)


SQUARE = {"height": 32, "width": 32}
SHORT = {**SQUARE, "max_sequence_length": 48}

TOYS = (
    Toy("Krea2Pipeline", krea2, SHORT),
    Toy("OvisImagePipeline", ovis, SHORT),
    Toy("LongCatImagePipeline", longcat, {**SQUARE, "enable_prompt_rewrite": False}),
    Toy(
        "NucleusMoEImagePipeline",
        nucleus,
        {**SQUARE, "max_sequence_length": 128, "return_index": -2},
    ),
    Toy("Ideogram4Pipeline", ideogram4, {**SHORT, "guidance_schedule": None}),
    Toy("ZImageOmniPipeline", z_image_omni, SHORT),
    Toy("DreamLitePipeline", partial(dreamlite, DreamLitePipeline), SHORT),
    Toy("DreamLiteMobilePipeline", partial(dreamlite, DreamLiteMobilePipeline), SHORT),
    Toy(
        "Kandinsky5T2IPipeline",
        kandinsky5,
        {"height": 640, "width": 1408, "max_sequence_length": 48},
    ),
)
