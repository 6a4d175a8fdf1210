"""Texts of any length, padded to one: a graph has one length.

Some pipelines encode a prompt as long as it is, and tell their network with a mask what is padding where
several prompts have several lengths. Here every prompt is padded so. The network then computes the same
of each token, because nothing attends to padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from search.model.families.text_to_image import call_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 256
"""Tokens of a prompt, its template apart; what is longer is cut."""
_PAIR = 2
MASK = "prompt_embeds_mask"
"""The argument of a pipeline's call that tells such pipelines apart."""


class PaddedText:
    """Pads what a pipeline's `encode_prompt` returns.

    Attributes:
        length: of the encoded texts, in tokens; 0 until one was encoded.
        tokens: of the text that is encoded next, if whoever tokenised it has counted them.
        template: tokens of the template that are dropped from the encoded text.
        mask: in a trace, of the tokens `[1, template + length]`, which are as many as fit; None outside.
    """

    def __init__(self, encode: Callable[..., Any]) -> None:
        self._encode = encode
        self.length = self.tokens = self.template = 0
        self.mask: Tensor | None = None

    def encode(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Embeddings `[B, length, D]`, zeros behind each text, and their bool mask `[B, length]`.

        What encoders of several texts return, which pad these themselves, is left as it is.
        """
        made = self._encode(*args, **kwargs)
        if len(made) != _PAIR:
            return tuple(made)
        embeds, mask = made
        self.length = min(LIMIT, kwargs.get("max_sequence_length") or LIMIT)
        if self.mask is not None:
            mask = self.mask[:, self.template :].bool().expand(len(embeds), -1)
            return embeds * mask[..., None].to(embeds), mask
        count = embeds.shape[1]
        if self.tokens:
            self.template, self.tokens = max(self.tokens - count, 0), 0
        if mask is None:
            mask = torch.ones(embeds.shape[:2], device=embeds.device)
        missing = max(self.length - count, 0)
        padded = functional.pad(embeds[:, : self.length], (0, 0, 0, missing))
        return padded, functional.pad(mask[:, : self.length].bool(), (0, missing))

    def forget(self) -> None:
        """End a trace."""
        self.mask = None


def pad_texts(pipe: Any) -> None:
    """Let a pipeline that takes texts of any length, and a mask with them, pad all to one length."""
    if MASK not in call_parameters(pipe):
        return
    padded = PaddedText(pipe.encode_prompt)
    vars(pipe)["encode_prompt"] = padded.encode
    vars(pipe)[_PLACE] = padded


def padded_text_of(pipe: Any) -> PaddedText | None:
    """What pads the texts of a pipeline; None if it pads them itself."""
    found: PaddedText | None = vars(pipe).get(_PLACE)
    return found


_PLACE = "_stepcarve_padded_text"
