"""How a prompt becomes the inputs of a conditioner. No framework."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.cleaning import cleaned
from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.core.quotation import Quotation


class PromptField(enum.StrEnum):
    """The content of one input of the conditioner."""

    IDS = "ids"
    """Token ids `[1, length]`."""
    MASK = "mask"
    """1 where there is a token and 0 where there is padding, `[1, length]`."""
    GIVEN = "given"
    """1 if there is such a text and 0 if not, `[1]`."""
    QUOTED = "quoted"
    """1 if there are words in quotes in that text and 0 if not, `[1]`."""
    LABEL = "label"
    """A class number `[1]`."""
    PICTURE = "picture"
    """A picture in 0..1, `[1, 3, height, width]`; a mask has one channel."""
    NOISE = "noise"
    """Numbers drawn from the seed."""
    SCALE = "scale"
    """The scale of a LoRA, `[1]`."""


class Drawn(enum.StrEnum):
    """When the numbers of a noise are drawn from the seed."""

    BEFORE = "before"
    """The initial noise of the latents."""
    AFTER = "after"
    """That noise."""
    APART = "apart"
    """By torch's own generator, which has the same seed."""


@dataclass(frozen=True)
class PromptInput:
    """One input of the conditioner.

    Attributes:
        name: of the input.
        source: `prompt` or `negative`; of pictures `image`, `mask` or `ip-image`; of a scale, the LoRA's
            name.
        fill: its content, made from that text.
        length: of token ids and masks.
        classes: how many there are, for labels.
        tokenizer: file that turns the text into ids and mask.
        placeholders: whether those of several vectors are written out before.
        cleanings: of the text, as `search.core.cleaning` knows them.
        before: a text that the prompt stands behind, such as the head of a chat template.
        after: a text behind the prompt.
        special: whether the tokenizer adds its special tokens.
        empty: what is read in the place of an empty text.
        quotation: makes the text that is tokenised of the quoted words of the prompt.
        spelled: pairs of quotes, such as `""`, in which words are tokenised letter by letter.
        dims: shape of pictures and noise, at the bundle's first size.
        drawn: of noise, when.
        multiple: to one of it the tokenizer fills up a text of any length, with tokens that are read; they
            are followed by padding up to `length`. 0 for texts that the tokenizer pads to `length`.
        alone: the token that is read where `multiple` is set and a text has none.
        shortest: of a picture whose middle is read, what its shorter edge is resized to by bicubic
            interpolation. 0 for one that is resized to the input's height and width by Lanczos.
    """

    name: str
    source: str
    fill: PromptField
    length: int = 0
    classes: int = 0
    tokenizer: str = ""
    placeholders: bool = False
    cleanings: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    special: bool = True
    empty: str = ""
    quotation: Quotation | None = None
    spelled: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    drawn: Drawn = Drawn.BEFORE
    multiple: int = 0
    alone: int = 0
    shortest: int = 0

    @property
    def template(self) -> tuple[str, tuple[str, ...], str]:
        """What becomes of the prompt before it is tokenised."""
        return self.before, self.cleanings, self.after

    def written(self, text: str) -> str:
        """What is tokenised for a prompt."""
        if self.quotation is not None:
            return self.quotation.text(text)
        return f"{self.before}{cleaned(text, self.cleanings) or self.empty}{self.after}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input."""
        return self.dims or ((1, self.length) if self.length else (1,))

    @property
    def dtype(self) -> str:
        """Of the input."""
        return "float32" if self.dims else "int64"


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
