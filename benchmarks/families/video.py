"""All toys that make a video from text, and the classes of which there is none."""

from __future__ import annotations

from benchmarks.families import video_dit, video_llm, video_t5, video_unet, video_wan

TOYS = (
    *video_wan.TOYS,
    *video_dit.TOYS,
    *video_t5.TOYS,
    *video_llm.TOYS,
    *video_unet.TOYS,
)

_GUARD = "its constructor needs the package cosmos_guardrail, which loads models of many gigabytes"
_SAFETY = "it cannot be saved without a safety checker, which is no optional part of the class"

NOT_BUILT = {
    "Cosmos2_5_PredictBasePipeline": _GUARD,
    "Cosmos3OmniPipeline": _GUARD,
    "CosmosTextToWorldPipeline": _GUARD,
    "TextToVideoZeroPipeline": _SAFETY,
}
"""Class -> why there is no toy of it."""
