"""Fast tokenizers made of SentencePiece models, against their own class."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from sentencepiece import SentencePieceTrainer

from benchmarks.families.words import WORDS
from search.model.piece_tokenizer import piece_tokenizer

TEXTS = ("A photo of two cats, 4k", "  caf\u00e9  \u6728 \U0001f333", "sop [gMASK] <s></s> \n", "")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("falls_back", [True, False])
def test_texts_become_the_same_tokens(tmp_path: Path, kind: str, falls_back: bool) -> None:
    model = io.BytesIO()
    SentencePieceTrainer.Train(
        sentence_iterator=iter(WORDS * 4),
        model_writer=model,
        vocab_size=600,
        model_type=kind,
        hard_vocab_limit=False,
        byte_fallback=falls_back,
        minloglevel=2,
    )
    file = tmp_path / "tokenizer.model"
    file.write_bytes(model.getvalue())
    slow = ChatGLMTokenizer(str(file), model_max_length=256)
    fast = piece_tokenizer(slow)
    assert fast is not None
    for text in (*TEXTS, " ".join(WORDS[:40])):
        assert fast.encode(text).ids == slow(text)["input_ids"]
        assert fast.encode(text, add_special_tokens=False).ids != fast.encode(text).ids


def test_a_tokenizer_without_such_a_file_has_none() -> None:
    assert piece_tokenizer(SimpleNamespace(vocab_file="vocab.json")) is None
