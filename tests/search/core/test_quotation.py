"""Words in quotes, against the functions of diffusers that take them out of a prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts
from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation

from search.core.quotation import pieces, probe, read_marks, read_quotation

PROMPTS = (
    "no quotes",
    "",
    'say "a" and \'b\' \u201cc\u201d \u2018d\u2019 "a"',
    "it's \u201cone\u201d only",
    '"" and ""',
    '"two\nlines" "one"',
    "'a\" 'b' \"c",
)


@pytest.mark.parametrize("made", [extract_glyph_text, extract_glyph_texts])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_text_is_made_of_quoted_words_as_the_pipeline_does(
    made: Callable[[str], str | None], prompt: str
) -> None:
    quotation = read_quotation("prompt", made(probe("prompt")) or "")
    assert quotation is not None
    assert quotation.text(prompt) == (made(prompt) or "")


@pytest.mark.parametrize(
    "made",
    [
        "",
        "prompta",
        "promptb-prompta-promptc",
        probe("negative"),
        "prompta promptb; promptc promptd",
    ],
)
def test_what_is_made_otherwise_is_not_known(made: str) -> None:
    assert read_quotation("prompt", made) is None


def apart(prompt: str) -> list[str]:
    """What LongCat-Image gives its tokenizer."""
    return [
        piece for part, quoted in split_quotation(prompt) for piece in (part if quoted else [part])
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_words_in_quotes_are_spelled_as_the_pipeline_does(prompt: str) -> None:
    marks = read_marks("prompt", ["head", *apart(probe("prompt")), "tail"])
    assert marks is not None
    assert pieces(prompt, marks) == apart(prompt)


def test_texts_taken_apart_otherwise_are_not_known() -> None:
    assert read_marks("prompt", probe("prompt").split(" ")) is None
