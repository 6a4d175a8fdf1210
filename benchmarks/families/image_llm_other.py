"""Text to image by further classes, the prompt read by other language models."""

from __future__ import annotations

from diffusers import (
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    KolorsPipeline,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    SanaSprintPipeline,
    SCMScheduler,
    UNet2DConditionModel,
)

from benchmarks.families import autoencoders, encoders, texts, words
from benchmarks.families.image_llm import sana_transformer
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
"""Of a transformer 32 wide."""


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


def ernie() -> ErnieImagePipeline:
    """Two blocks over picture and text, modulated as one; both halves of the guidance in one call."""
    transformer = ErnieImageTransformer2DModel(
        hidden_size=48,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=96,
        in_channels=16,
        out_channels=16,
        text_in_dim=texts.WIDTH,
        rope_axes_dim=(8, 8, 8),
    )
    pipe = ErnieImagePipeline(
        transformer=transformer,
        vae=autoencoders.flux2(),
        text_encoder=texts.mistral3_inner(),
        tokenizer=words.mistral(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return with_random_weights(pipe, 9)


def hidream() -> HiDreamImagePipeline:
    """Two joint blocks and two single ones with experts; four text encoders.

    The class makes every picture of 128x128 latents, so a patch is 8x8 of them here.
    """
    words_1, words_2 = words.clip(), words.clip()
    transformer = HiDreamImageTransformer2DModel(
        patch_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
        caption_channels=[texts.WIDTH, texts.WIDTH],
        text_emb_dim=2 * texts.WIDTH,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(128, 128),
        llama_layers=[0, 1, 1, 1],
    )
    pipe = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoders.kl(shift=0.1159),
        text_encoder=encoders.clip_projected(words_1),
        tokenizer=words_1,
        text_encoder_2=encoders.clip_projected(words_2),
        tokenizer_2=words_2,
        text_encoder_3=texts.t5_encoder(),
        tokenizer_3=words.t5(),
        text_encoder_4=texts.llama_speaking(),
        tokenizer_4=words.llama(),
        transformer=transformer,
    )
    return with_random_weights(pipe, 10)


def bria_fibo() -> BriaFiboPipeline:
    """Two joint blocks and two single ones, each fed with a layer of the language model."""
    transformer = BriaFiboTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
        joint_attention_dim=16,
        axes_dims_rope=[4, 6, 6],
        text_encoder_dim=8,
    )
    pipe = BriaFiboPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.wan(),
        text_encoder=texts.smol3(),
        tokenizer=words.llama(),
    )
    return with_random_weights(pipe, 11)


def bria_fibo2() -> BriaFibo2Pipeline:
    """Six blocks, five of them fed with three layers each of the language model.

    A tokenizer stands in for the processor, which asks for torchvision.
    """
    transformer = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=3 * texts.WIDTH,
        injection_layer_ids=(1, 2, 3, 4, 5),
        perceiver_num_layers=1,
        min_num_gist_tokens=8,
        max_num_gist_tokens=16,
        gist_step=4,
        gist_min_text_len=160,
        gist_max_text_len=320,
        axes_dims=(4, 6, 6),
    )
    pipe = BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoders.flux2(),
        text_encoder=texts.qwen3_vl(layers=36),
        processor=words.qwen(),
    )
    return with_random_weights(pipe, 67)


def kolors() -> KolorsPipeline:
    """A U-Net of two levels, told the size."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=32,
        encoder_hid_dim=texts.WIDTH,
        encoder_hid_dim_type="text_proj",
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=texts.WIDTH + 6 * 8,
    )
    pipe = KolorsPipeline(
        vae=autoencoders.kl(),
        text_encoder=texts.chat_glm(),
        tokenizer=words.chat_glm(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.014,
            beta_schedule="scaled_linear",
            num_train_timesteps=1100,
            steps_offset=1,
        ),
    )
    return with_random_weights(pipe, 12)


SQUARE = {"height": 32, "width": 32}
SHORT = {**SQUARE, "max_sequence_length": 48}

TOYS = (
    Toy(
        "LuminaPipeline",
        lumina,
        {"height": 64, "width": 64, "max_sequence_length": 32, "clean_caption": False},
    ),
    Toy(
        "SanaSprintPipeline",
        sana_sprint,
        {**SHORT, "use_resolution_binning": False, "intermediate_timesteps": None},
    ),
    Toy("ErnieImagePipeline", ernie, SQUARE),
    Toy("HiDreamImagePipeline", hidream, {"height": 256, "width": 256, "max_sequence_length": 24}),
    Toy("BriaFiboPipeline", bria_fibo, {"height": 128, "width": 128, "max_sequence_length": 32}),
    Toy("BriaFibo2Pipeline", bria_fibo2, SQUARE),
    Toy("KolorsPipeline", kolors, {"height": 16, "width": 16, "max_sequence_length": 24}),
)
