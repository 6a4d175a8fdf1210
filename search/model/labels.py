"""The conditioners of pipelines that are told a class, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
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


class NoConditioner(nn.Module):
    """A constant that nobody reads: a graph has to give something."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[PromptInput] = []
        self.tokenizers: dict[str, Tokenizer] = {}

    def forward(self) -> dict[str, Tensor]:
        """Nothing -> `[1]`."""
        return {"unconditional": torch.zeros(1)}
