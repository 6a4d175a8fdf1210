"""The conditioner of class-conditional pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.core.prompt import PromptField, PromptInput
from search.model.encoding import LABELS

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class LabelConditioner(nn.Module):
    """A class label, once per picture."""

    def __init__(self, classes: int, *, images: int) -> None:
        super().__init__()
        self.inputs = [PromptInput("label", "prompt", PromptField.LABEL, classes=classes)]
        self.tokenizers: dict[str, Tokenizer] = {}
        self.images = images

    def forward(self, label: Tensor) -> dict[str, Tensor]:
        """A label `[1]` -> labels `[images]`."""
        return {LABELS: label.repeat_interleave(self.images)}
