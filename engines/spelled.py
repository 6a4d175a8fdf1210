"""Tokens of a text whose words in quotes are tokenised letter by letter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer


def spelled(tokenizer: Tokenizer, pieces: Sequence[str], *, special: bool) -> Any:
    """The tokens of pieces of a text, one after the other, cut and padded as `tokenizer` does it."""
    from tokenizers import Encoding, Tokenizer

    padding, truncation = dict(tokenizer.padding or {}), dict(tokenizer.truncation or {})
    alone = Tokenizer.from_str(tokenizer.to_str())
    alone.no_padding()
    alone.no_truncation()
    parts = [alone.encode(piece, add_special_tokens=special) for piece in pieces or [""]]
    whole = Encoding.merge(parts, growing_offsets=True)
    whole.truncate(truncation["max_length"], direction=truncation["direction"])
    whole.pad(
        padding["length"],
        direction=padding["direction"],
        pad_id=padding["pad_id"],
        pad_token=padding["pad_token"],
    )
    return whole
