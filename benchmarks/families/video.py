"""All toys that make a video from text, and the classes of which there is none."""

from __future__ import annotations

from benchmarks.families import cosmos, video_dit, video_llm, video_t5, video_unet, video_wan

TOYS = (
    *video_wan.TOYS,
    *video_dit.TOYS,
    *video_t5.TOYS,
    *video_llm.TOYS,
    *video_unet.TOYS,
    *cosmos.FROM_TEXT,
)

NOT_BUILT = {
    "Cosmos3OmniPipeline": "nobody has built it yet",
    "TextToVideoZeroPipeline": (
        "it cannot be saved without a safety checker, which is no optional part of the class"
    ),
}
"""Class -> why there is no toy of it."""
