"""Tokens of words in quotes."""

from __future__ import annotations

from tokenizers import Tokenizer

from benchmarks.families import words
from engines.spelled import spelled

LENGTH = 12


def padded() -> Tokenizer:
    """A tokenizer as a bundle has it."""
    fast = Tokenizer.from_str(words.qwen().backend_tokenizer.to_str())
    fast.enable_truncation(LENGTH)
    fast.enable_padding(length=LENGTH, pad_id=7, pad_token="<pad>")
    return fast


def test_pieces_are_tokenised_apart_and_padded_together() -> None:
    own, pieces = words.qwen(), ["a red ", '"', "c", "a", "t", '"']
    expected = [n for piece in pieces for n in own(piece, add_special_tokens=False)["input_ids"]]
    assert expected != own("".join(pieces), add_special_tokens=False)["input_ids"]
    found = spelled(padded(), pieces, special=False)
    assert found.ids == expected + [7] * (LENGTH - len(expected))
    assert found.attention_mask == [1] * len(expected) + [0] * (LENGTH - len(expected))


def test_what_is_too_long_is_cut() -> None:
    found = spelled(padded(), list("letters" * 3), special=False)
    assert len(found.ids) == LENGTH
    assert found.overflowing[0].offsets[0] == (LENGTH, LENGTH + 1)


def test_no_pieces_are_padding() -> None:
    assert spelled(padded(), [], special=False).attention_mask == [0] * LENGTH
