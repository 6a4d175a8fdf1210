"""How a prompt becomes the inputs of a conditioner. No framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class PromptInput:
    """One input of the conditioner, and how the runner fills it.

    Attributes:
        name: of the input.
        source: `prompt`, `negative` (token ids `[1, length]`) or `label` (a class number `[1]`).
        length: of the padded token ids, for texts.
        classes: how many there are, for labels.
    """

    name: str
    source: str
    length: int = 0
    classes: int = 0


def class_number(prompt: str, labels: Mapping[str, int], classes: int) -> int:
    """The class of a name in `labels` or of one of their numbers; without names, of one below `classes`."""
    if prompt in labels:
        return int(labels[prompt])
    numbers = set(labels.values()) or range(classes)
    if prompt.isdecimal() and len(prompt) < 10 and int(prompt) in numbers:
        return int(prompt)
    known = f" or one of {', '.join(sorted(labels))}" if labels else ""
    msg = f"no class {prompt!r}; give a number from {min(numbers)} to {max(numbers)}{known}"
    raise SearchError(msg)
