"""The tokenizer that small pipelines learn from their captions."""

from __future__ import annotations

from pathlib import Path

from examples.clip_text import tokenizer
from examples.emoji.text import name_pieces

PROMPTS = Path(__file__).parents[2] / "examples" / "emoji" / "prompts.txt"
WORDS = sorted({piece for word in PROMPTS.read_text().split() for piece in name_pieces(word)})


def test_every_word_is_one_token() -> None:
    found = tokenizer(WORDS)
    assert {len(found(word).input_ids) for word in WORDS} == {3}, "start, word, end"


def test_ids_are_the_same_each_time() -> None:
    """Equally frequent merges come in another order each time; checkpoints must fit all the same."""
    first, *others = (tokenizer(WORDS).get_vocab() for _ in range(4))
    assert all(each == first for each in others)
    *pieces, start, end = sorted(first, key=lambda piece: first[piece])
    assert pieces == sorted(pieces)
    assert (start, end) == ("<|startoftext|>", "<|endoftext|>")
