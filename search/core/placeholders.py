"""Placeholders of textual inversion, written out before a text is tokenised. No framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from tokenizers import Tokenizer


def vectors_of(token: str, added: Collection[str]) -> list[str]:
    """A placeholder and its further vectors among the added tokens: `<toy>`, `<toy>_1`, `<toy>_2`."""
    found = [token]
    while (further := f"{token}_{len(found)}") in added:
        found.append(further)
    return found


def written_out(text: str, tokenizer: Tokenizer) -> str:
    """The text with a blank and the next vector behind every placeholder of several, as diffusers has it."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    if not any(len(vectors_of(token, added)) > 1 for token in added):
        return text
    encoded = tokenizer.encode(text, add_special_tokens=False)
    tokens = [token for part in (encoded, *encoded.overflowing) for token in part.tokens]
    for token in dict.fromkeys(tokens):
        if token in added:
            text = text.replace(token, " ".join(vectors_of(token, added)))
    return text
