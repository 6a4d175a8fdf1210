"""AuraFlow."""

from __future__ import annotations

from search.model.families.text_to_image import TextToImage


class AuraFlow(TextToImage):
    """`AuraFlowPipeline`: pictures of the size that its transformer was trained at.

    Its call has another default, 1024, and takes None for that size.
    """

    pipeline = "AuraFlowPipeline"
    unset = ("height", "width")
