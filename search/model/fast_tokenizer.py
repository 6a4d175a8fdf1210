"""The tokenizer of a bundle: the fast one behind one of transformers, made to pad and cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from search.core.errors import SearchError
from search.core.placeholders import vectors_of
from search.model.byte_tokenizer import byte_tokenizer
from search.model.piece_tokenizer import piece_tokenizer

if TYPE_CHECKING:
    from search.model.fixed_texts import FixedTexts
    from search.model.input_tokenizer import Asked


def has_placeholders(tokenizer: Any) -> bool:
    """Whether one of its added tokens stands for several."""
    added = tokenizer.get_added_vocab()
    return any(len(vectors_of(token, added)) > 1 for token in added)


def fast_tokenizer(tokenizer: Any, asked: Asked, fixed: FixedTexts | None) -> Tokenizer:
    """The fast tokenizer behind one of transformers, made to pad and cut to what is asked."""
    inner = getattr(tokenizer, "tokenizer", None)
    tokenizer = inner if hasattr(inner, "model_max_length") else tokenizer
    fast = (
        Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        if hasattr(tokenizer, "backend_tokenizer")
        else byte_tokenizer(tokenizer) or piece_tokenizer(tokenizer)
    )
    if fast is None:
        msg = (
            f"{type(tokenizer).__name__} has no fast tokenizer; save the pipeline with one that has"
        )
        raise SearchError(msg)
    fast.enable_truncation(asked.most, direction=tokenizer.truncation_side)
    fast.no_padding()
    if not asked.multiple:
        fast.enable_padding(
            direction=tokenizer.padding_side,
            length=asked.length,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
        )
    elif fixed is not None and fixed.filler is not None:
        fast.enable_padding(
            direction="left" if fixed.leads else "right",
            pad_to_multiple_of=asked.multiple,
            pad_id=fixed.filler,
            pad_token=tokenizer.convert_ids_to_tokens(fixed.filler),
        )
    return fast
