"""Tokenizers whose tokens are bytes, such as ByT5's, as fast ones."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

_SAMPLES = ("", 'A "tree" \u00e4\u00df \u6728\U0001f333\n\t ok', "a </s> b<pad>", "  two")


def byte_tokenizer(tokenizer: Any) -> Tokenizer | None:
    """The fast tokenizer that does what one of transformers does; None if its tokens are no bytes."""
    letters = {byte: letter for letter, byte in _bytes_of_letters().items()}
    numbers = tokenizer.convert_tokens_to_ids([chr(byte) for byte in letters])
    if len(set(numbers)) != len(letters):
        return None
    vocabulary = {letters[byte]: n for byte, n in zip(letters, numbers, strict=True)}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    marks = sorted(tokenizer.added_tokens_decoder.items())
    # The numbers of added tokens follow those of the vocabulary, unless it has them already.
    with_marks = {**{str(token): number for number, token in marks}, **vocabulary}
    fast.model = models.BPE(vocab=with_marks, merges=[])
    fast.add_tokens([token for _, token in marks])
    fast.post_processor = _around(tokenizer, vocabulary["a"])
    for text in _SAMPLES:
        for special in (True, False):
            made = fast.encode(text, add_special_tokens=special).ids
            if made != tokenizer(text, add_special_tokens=special)["input_ids"]:
                return None
    return fast


def _bytes_of_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


def _around(tokenizer: Any, letter: int) -> Any:
    """Puts special tokens before and behind a text, as `tokenizer` does."""
    ids = tokenizer("a")["input_ids"]
    place = ids.index(letter)
    names = {n: tokenizer.convert_ids_to_tokens(n) for n in (*ids[:place], *ids[place + 1 :])}
    parts = [*(names[n] for n in ids[:place]), "$A", *(names[n] for n in ids[place + 1 :])]
    return processors.TemplateProcessing(
        single=parts, special_tokens=[(name, n) for n, name in names.items()]
    )
