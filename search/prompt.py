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
    """The class that `prompt` gives as a number below `classes`, or by a name in `labels`."""
    if prompt in labels:
        return int(labels[prompt])
    if prompt.isdecimal() and len(prompt) < 10 and int(prompt) < classes:
        return int(prompt)
    known = ", ".join(sorted(labels)) or "(none has a name)"
    msg = f"no class {prompt!r}; give a number from 0 to {classes - 1} or one of {known}"
    raise SearchError(msg)
