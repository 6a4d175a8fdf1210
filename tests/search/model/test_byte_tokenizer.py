"""Fast tokenizers of bytes, against transformers' own."""

from __future__ import annotations

import pytest
from transformers import ByT5Tokenizer

from benchmarks.families import words
from search.model.byte_tokenizer import byte_tokenizer

TEXTS = (
    "",
    'Text "h\u00e9llo \u6728". ',
    "a<extra_id_3> b",
    "</s>x <pad>",
    "\x00\x7f\n",
    "  two  ",
)


@pytest.mark.parametrize("extra", [0, 125])
def test_a_byte_tokenizer_has_a_fast_one(extra: int) -> None:
    own = ByT5Tokenizer(extra_ids=extra)
    fast = byte_tokenizer(own)
    assert fast is not None
    for text in TEXTS:
        for special in (True, False):
            expected = own(text, add_special_tokens=special)["input_ids"]
            assert fast.encode(text, add_special_tokens=special).ids == expected


def test_other_tokenizers_have_none() -> None:
    assert byte_tokenizer(words.t5()) is None
