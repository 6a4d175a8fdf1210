"""Text to image, the prompt read by T5."""

from __future__ import annotations

from diffusers import (
    BriaPipeline,
    BriaTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    UNet2DConditionModel,
)

from benchmarks.families import autoencoders, encoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
"""Of a transformer 32 wide."""


def chroma() -> ChromaPipeline:
    """Two joint blocks and two single ones, all modulations from one small network."""
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
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


def hunyuan_dit() -> HunyuanDiTPipeline:
    """Four blocks with skips between the halves, text from BERT and T5, predicts variances too."""
    transformer = HunyuanDiT2DModel(
        **HEADS,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=32,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=texts.WIDTH,
        cross_attention_dim_t5=texts.WIDTH,
        pooled_projection_dim=16,
        use_style_cond_and_image_meta_size=False,
    )
    pipe = HunyuanDiTPipeline(
        vae=autoencoders.kl(),
        text_encoder=encoders.bert_encoder(),
        tokenizer=words.bert(),
        transformer=transformer,
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.02,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=texts.t5_encoder(),
        tokenizer_2=words.t5(),
    )
    return with_random_weights(pipe, 21)


def cogview3_plus() -> CogView3PlusPipeline:
    """Two joint blocks, a diffusion schedule."""
    transformer = CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        **HEADS,
        text_embed_dim=texts.WIDTH,
        time_embed_dim=32,
        condition_dim=16,
        pos_embed_max_size=16,
        sample_size=8,
    )
    pipe = CogView3PlusPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        vae=autoencoders.kl(),
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
    )
    return with_random_weights(pipe, 22)


def bria() -> BriaPipeline:
    """Two joint blocks and two single ones."""
    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        **HEADS,
        joint_attention_dim=texts.WIDTH,
        axes_dims_rope=[0, 8, 8],
    )
    pipe = BriaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoders.kl(shift=0.1),
        text_encoder=texts.t5_encoder(),
        tokenizer=words.t5(),
    )
    return with_random_weights(pipe, 23)


def kandinsky3() -> Kandinsky3Pipeline:
    """A U-Net of four levels, 128 tokens."""
    unet = Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=32,
        groups=4,
        attention_head_dim=8,
        layers_per_block=2,
        block_out_channels=(8, 16, 16, 32),
        cross_attention_dim=texts.WIDTH,
        encoder_hid_dim=texts.WIDTH,
    )
    pipe = Kandinsky3Pipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True),
        movq=autoencoders.movq(),
    )
    return with_random_weights(pipe, 24)


def deepfloyd_if() -> IFPipeline:
    """The first stage: a U-Net on pixels, predicts variances too."""
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=3,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=texts.WIDTH,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=4,
        act_fn="gelu",
    )
    pipe = IFPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        unet=unet,
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
            variance_type="learned_range",
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    return with_random_weights(pipe, 25)


SQUARE = {"height": 16, "width": 16}
SHORT = {**SQUARE, "max_sequence_length": 24}

TOYS = (
    Toy("ChromaPipeline", chroma, {"height": 32, "width": 32, "max_sequence_length": 24}),
    Toy("HunyuanDiTPipeline", hunyuan_dit, {**SQUARE, "use_resolution_binning": False}),
    Toy("CogView3PlusPipeline", cogview3_plus, SHORT),
    Toy("BriaPipeline", bria, SHORT),
    Toy(
        "Kandinsky3Pipeline",
        kandinsky3,
        {"height": 64, "width": 64},
        scheduler={"clip_sample": False},
    ),
    Toy(
        "IFPipeline",
        deepfloyd_if,
        scheduler={"variance_type": "fixed_small", "thresholding": False, "clip_sample": False},
    ),
)
