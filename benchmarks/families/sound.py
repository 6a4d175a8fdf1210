"""Text to sound: latents of one dimension."""

from __future__ import annotations

from diffusers import (
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)

from benchmarks.families import texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def stable_audio() -> StableAudioPipeline:
    """Stable Audio 1: start and end in seconds are tokens too; halves batched."""
    pipe = StableAudioPipeline(
        vae=AutoencoderOobleck(
            encoder_hidden_size=4,
            downsampling_ratios=[2, 4],
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=4,
            sampling_rate=64,
        ),
        text_encoder=texts.t5_encoder(),
        projection_model=StableAudioProjectionModel(
            text_encoder_dim=texts.WIDTH, conditioning_dim=texts.WIDTH, min_value=0, max_value=8
        ),
        tokenizer=words.t5(32),
        transformer=StableAudioDiTModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            cross_attention_dim=32,
            cross_attention_input_dim=texts.WIDTH,
            global_states_input_dim=2 * texts.WIDTH,
            time_proj_dim=16,
        ),
        scheduler=EDMDPMSolverMultistepScheduler(
            sigma_min=0.3,
            sigma_max=500,
            sigma_data=1.0,
            sigma_schedule="exponential",
            prediction_type="v_prediction",
            solver_order=2,
        ),
    )
    return with_random_weights(pipe, 351)


TOYS = (Toy("StableAudioPipeline", stable_audio, {"audio_end_in_s": 1.0}),)

_UNTRIED = "nobody has built it yet"
_TEXT = "it makes text"

NOT_BUILT = {
    "AceStepPipeline": _UNTRIED,
    "AudioLDM2Pipeline": _UNTRIED,
    "DiffusionGemmaPipeline": _TEXT,
    "LLaDA2Pipeline": _TEXT,
    "LongCatAudioDiTPipeline": _UNTRIED,
    "RFD4ProteinaPipeline": "it makes proteins",
    "StableAudio3AudioToAudioPipeline": _UNTRIED,
    "StableAudio3InpaintPipeline": _UNTRIED,
    "StableAudio3Pipeline": _UNTRIED,
}
"""Class -> why there is no toy of it: of sound, and of what is neither seen nor heard."""
