"""Errors of libraries as sentences."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from search.core.errors import SearchError
from search.model import failures
from search.model.failures import pipeline_failures


class SomePipeline(SimpleNamespace):
    """One without parts."""


def raised_in(file: str, error: Exception) -> None:
    """Raise it in a function of that file."""

    def fail() -> None:
        raise error

    eval(compile("(lambda: fail())()", file, "eval"), {"fail": fail})


@pytest.mark.parametrize(
    ("file", "error", "sentence"),
    [
        (
            "/lib/diffusers/models/some.py",
            DataDependentOutputException(torch.ops.aten.item.default),
            (
                "SomePipeline branches on the values of its tensors, which a graph cannot do (<lambda> in some.py); "
                "such pipelines are not supported"
            ),
        ),
        (
            "/lib/diffusers/models/some.py",
            RuntimeError("Cannot access data pointer of Tensor"),
            (
                "SomePipeline uses code that torch.export cannot trace (<lambda> in some.py); such pipelines are "
                "not supported"
            ),
        ),
    ],
)
def test_what_cannot_be_traced_is_told_without_the_librarys_words(
    monkeypatch: pytest.MonkeyPatch, file: str, error: Exception, sentence: str
) -> None:
    monkeypatch.setattr(failures, "is_exporting", lambda: True)
    with pytest.raises(SearchError) as told, pipeline_failures(SomePipeline(components={})):
        raised_in(file, error)
    assert str(told.value) == sentence


def test_what_fails_without_a_trace_is_told_in_the_librarys_words() -> None:
    with (
        pytest.raises(SearchError, match="SomePipeline itself fails here with RuntimeError: sizes"),
        pipeline_failures(SomePipeline(components={})),
    ):
        raised_in("/lib/diffusers/models/some.py", RuntimeError("sizes"))


def test_a_language_model_that_writes_a_text_is_refused() -> None:
    model = SimpleNamespace(generate=lambda: "a text")
    with (
        pytest.raises(SearchError, match=r"generates text with its text_encoder .* such as --call"),
        pipeline_failures(SomePipeline(components={"text_encoder": model, "vae": None})),
    ):
        model.generate()
    assert model.generate() == "a text"


def test_an_operation_that_torch_keeps_whole_is_named() -> None:
    pipe = type("Pipe", (), {"components": {}})()
    words = "There was no rule registered for HigherOrderOperator flex_attention and mode <Mode at 0x7f>"
    with pytest.raises(SearchError) as caught, pipeline_failures(pipe):
        raise NotImplementedError(words)
    assert str(caught.value) == (
        "Pipe uses torch's flex_attention, whose operations cannot be looked into; such pipelines are not supported"
    )
