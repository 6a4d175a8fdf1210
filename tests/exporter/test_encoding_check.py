"""A conditioner against what its pipeline's own encoders make of a text."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from exporter import encoding_check
from exporter.encoding_check import (
    LONG,
    is_in,
    is_padding,
    require_own_encoding,
    texts_alone,
    unlike_encodings,
)
from exporter.errors import ExportError
from search.core.prompt import PromptField, PromptInput
from search.model.family import Request
from search.model.fixed_texts import FixedTexts, TextAxis

LENGTH = 24
WORDS = {word: 1 + number for number, word in enumerate(dict.fromkeys(LONG.split()))}


def tokenizer(length: int) -> Tokenizer:
    made = Tokenizer(models.WordLevel({"?": 0, **WORDS}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.enable_truncation(length)
    made.enable_padding(length=length)
    return made


class Encoding:
    """Token ids and their mask to a condition: the ids, padding apart."""

    def __init__(self, length: int = LENGTH, empty: str = "") -> None:
        fields = (PromptField.IDS, PromptField.MASK)
        self.inputs = [
            PromptInput(field, "prompt", field, length=length, tokenizer="words", empty=empty)
            for field in fields
        ]
        self.tokenizers = {"words": tokenizer(length)}

    def eval(self) -> Callable[..., dict[str, Tensor]]:
        return lambda ids, mask: {"text": (ids * mask).float(), "mask": mask}


def check(
    monkeypatch: pytest.MonkeyPatch, own: Callable[[list[int]], Any], conditioner: Any = None
) -> list[str]:
    """Compare with a pipeline that makes `own(token ids)` of a text; gives the texts."""
    texts: list[str] = []

    def record(_: Any, request: Request, __: Any) -> dict[str, Tensor]:
        texts.append(request.prompts[0])
        ids = [WORDS.get(word, 0) for word in request.prompts[0].split()]
        return {"text": torch.tensor([own(ids)]).float()}

    monkeypatch.setattr(encoding_check, "record_conditions", record)
    pipe = SimpleNamespace(components={})
    pipeline: Any = SimpleNamespace(pipe=pipe)
    unlike = unlike_encodings(pipeline, conditioner or Encoding(), Request(("",), 2, 1.0))
    require_own_encoding(pipe, unlike, {"other"})
    require_own_encoding(pipe, unlike, {"text"})
    return texts


def test_what_its_pipeline_makes_of_a_short_and_a_long_text_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short, long = check(monkeypatch, lambda ids: ids)
    assert len(short.split()) < len(long.split()) < LENGTH
    assert check(monkeypatch, lambda ids: ids + [0] * (LENGTH - len(ids))) == [short, long]
    assert check(monkeypatch, lambda ids: ids, Encoding(5))[1] == "a small red circle on"


@pytest.mark.parametrize(
    "own",
    [
        lambda ids: [7, *ids],
        lambda ids: ids + [0] * (LENGTH + 1 - len(ids)),
        lambda ids: [each + 2 * (len(ids) > 4) for each in ids],
    ],
    ids=["another token", "longer than the bundle's", "another one of long texts"],
)
def test_anything_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, own: Callable[[list[int]], list[int]]
) -> None:
    with pytest.raises(ExportError, match=r"would make other conditions \['text'\]"):
        check(monkeypatch, own)


def test_a_condition_may_have_padding_before_or_behind_it() -> None:
    own = torch.rand(1, 3, 4)
    padding = torch.zeros(1, 2, 4)
    for made in ([own], [own, padding], [padding, own], [padding, own, padding]):
        assert is_in(torch.cat(made, 1), own)
    assert not is_in(torch.cat([own + 1, padding], 1), own)
    assert not is_in(own[:, :2], own)
    assert not is_in(torch.zeros(1, 5, 5), own)
    assert is_in(torch.arange(5), torch.arange(3) + 7)  # positions are not compared
    assert not is_in(torch.arange(3), torch.arange(3) + 7)


def test_of_texts_of_any_length_the_padding_behind_them_does_not_count() -> None:
    texts = FixedTexts(axes={"text": TextAxis(1, "prompt"), "other": TextAxis(1, "negative")})
    text, mask = torch.rand(1, 6, 2), torch.ones(1, 6)
    made = {"text": text.roll(2, 1), "mask": mask}
    pooled = torch.rand(1, 3)
    for own in (text, text[:, :4]):  # padded by the pipeline itself, or not
        conditions = {"text": own, "mask": mask, "pooled": pooled}
        alone = texts_alone(conditions, made, texts, {"prompt": 2})
        assert alone.keys() == {"text", "pooled"}
        assert torch.equal(alone["text"], text[:, :4])
        assert torch.equal(alone["pooled"], pooled)
        assert is_in(made["text"], alone["text"])


def test_padding_may_be_encoded_otherwise() -> None:
    own = torch.rand(1, 5, 2)
    made = own.clone()
    made[:, 3:] = 0
    behind = torch.tensor([False, False, False, True, True])
    assert is_padding(made, own, [behind])
    assert is_padding(made, own, [torch.cat([torch.zeros(2, dtype=torch.bool), behind])])
    assert not is_padding(made, own, [behind.flip(0)]), "the text itself differs"
    assert not is_padding(made, own, [])
    assert not is_padding(made[..., 0], own[..., 0], [behind])
