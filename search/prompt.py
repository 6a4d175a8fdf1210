"""How a prompt becomes the inputs of a conditioner. No framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptInput:
    """One input of the conditioner, and how the runner fills it.

    Attributes:
        name: of the input.
        source: `prompt`, `negative` (token ids `[1, length]`) or `label` (a class number `[1]`).
        length: of the padded token ids, for texts.
    """

    name: str
    source: str
    length: int = 0
