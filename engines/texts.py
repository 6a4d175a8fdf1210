"""Texts as a bundle's conditioner takes them."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engines.spelled import spelled
from search.core.placeholders import written_out
from search.core.prompt import PromptField, PromptInput, class_number
from search.core.quotation import pieces

if TYPE_CHECKING:
    from exporter.bundle import Bundle

logger = logging.getLogger(__name__)


class Texts:
    """Fills the inputs that depend on texts, with the bundle's own tokenizers."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def filling(self, each: PromptInput, text: str) -> Any:
        """What an input holds for a text: token ids or their mask, a class's number, or whether there is one."""
        match each.fill:
            case PromptField.LABEL:
                return class_number(text, self._bundle.labels, each.classes)
            case PromptField.GIVEN:
                return bool(text)
            case PromptField.QUOTED:
                return each.quotation is not None and bool(each.quotation.words(text))
            case PromptField.IDS:
                text, tokens = self._encoded(each, text)
                _warn_truncated(each, text, tokens)
                return _padded(each, tokens.ids or [each.alone] * bool(each.multiple))
            case PromptField.MASK:
                tokens = self._encoded(each, text)[1]
                seen = [1] * max(len(tokens), 1)
                return _padded(each, seen if each.multiple else tokens.attention_mask)
        raise AssertionError(each.fill)

    def _encoded(self, each: PromptInput, text: str) -> tuple[str, Any]:
        """The text that is tokenised, and its tokens."""
        tokenizer = self._tokenizers[each.tokenizer]
        text = each.written(text)
        if each.placeholders:
            text = written_out(text, tokenizer)
        if each.spelled:
            apart = pieces(text, each.spelled)
            return text, spelled(tokenizer, apart, special=each.special)
        return text, tokenizer.encode(text, add_special_tokens=each.special)

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        from tokenizers import Tokenizer

        files = {each.tokenizer for each in self._bundle.prompt_inputs if each.tokenizer}
        return {file: Tokenizer.from_file(str(self._bundle.file(file))) for file in files}


def _padded(each: PromptInput, tokens: list[int]) -> list[int]:
    """Tokens or their mask as long as the input is."""
    return tokens + [0] * (each.length - len(tokens))


def _warn_truncated(each: PromptInput, text: str, tokens: Any) -> None:
    """Warn which end of a text was truncated, as diffusers does, unless the input never reads any."""
    lost = [start for part in tokens.overflowing for start, end in part.offsets if end > start]
    if lost and any(end > start for start, end in tokens.offsets):
        logger.warning(
            "the %s is longer than the %d tokens that are read; its end %r is left out",
            each.source,
            each.length,
            text[min(lost) :],
        )
