"""AuraFlow: T5 and a transformer of joint and single blocks."""

from __future__ import annotations

from search.model.families.text_to_image import TextToImage


class AuraFlow(TextToImage):
    """`AuraFlowPipeline`."""

    pipeline = "AuraFlowPipeline"
    stacks = ("joint_transformer_blocks", "single_transformer_blocks")
    layers = frozenset({"Attention", "AuraFlowFeedForward"})
