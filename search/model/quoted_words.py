"""Words in quotes that a pipeline reads apart from the rest of a prompt, found by running it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.core.errors import SearchError
from search.core.prompt import PromptField, PromptInput
from search.core.quotation import Quotation, probe, read_marks, read_quotation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from search.model.family import Request

TEXTS = {
    name: f" Stepcarve {name}:  \u201c{name} \u00c9&amp;\u00df\u201d &lt;&amp;amp;,\t<br>http://a.b  \n"
    for name in ("prompt", "negative")
}
"""What stands for the texts while a pipeline runs; blanks, capitals and signs show what it does to them."""
UNQUOTED = {name: re.sub("[\u201c\u201d]", "", text) for name, text in TEXTS.items()}
"""The same, for pipelines that read words in quotes apart."""
_INPUT = "_quoted"
if TYPE_CHECKING:
    _Run = Callable[[Request], dict[str, Tensor]]


class QuotedError(SearchError):
    """A tokenizer is given words in quotes apart."""

    def __init__(self, tokenizer: str) -> None:
        super().__init__(
            f"the pipeline passes quoted words to its {tokenizer} in a way of its own; such "
            "pipelines are not supported"
        )


@dataclass
class QuotedWords:
    """What a pipeline does with words in quotes.

    Attributes:
        quotation: how it makes a text of them; None if it does nothing.
        conditions: that they are in, by source.
        spelled: pairs of quotes in which it tokenises words letter by letter.
    """

    quotation: Quotation | None = None
    conditions: dict[str, set[str]] = field(default_factory=dict)
    spelled: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[PromptInput]:
        """Whether there are any."""
        return [
            PromptInput(f"{source}{_INPUT}", source, PromptField.QUOTED, quotation=self.quotation)
            for source in self.conditions
        ]

    def source_of(self, text: str, tokenizer: str) -> str | None:
        """Of which of our texts `text` has the quoted words.

        Raises:
            QuotedError: it has some, and how they are put together is not known.
        """
        for source, ours in TEXTS.items():
            if self.quotation is not None and self.quotation.text(ours) == text:
                return source
            if f"{source} \u00e9" in text.lower():
                raise QuotedError(tokenizer)
        return None

    def read(self, run: _Run, texts: list[str], request: Request) -> Request:
        """Find out what the pipeline does.

        Args:
            run: its encoders.
            texts: those that the last run has tokenised.
            request: with texts in which words are in quotes.

        Returns:
            The request with texts without quotes.
        """
        run(replace(request, prompts=(probe("prompt"),), negative=probe("negative")))
        plain = replace(request, prompts=(UNQUOTED["prompt"],), negative=UNQUOTED["negative"])
        self.spelled = read_marks("prompt", texts) or ()
        if self.spelled:
            run(plain)
            return plain
        found = {read_quotation(source, text) for source in TEXTS for text in texts} - {None}
        if len(found) != 1:
            msg = (
                "the pipeline treats quoted words in a way of its own; such pipelines are not "
                "supported"
            )
            raise SearchError(msg)
        [self.quotation] = found
        both, one, none = run(request), run(replace(plain, prompts=request.prompts)), run(plain)
        changed = {
            source: {n for n, tensor in with_it.items() if not torch.equal(tensor, without[n])}
            for source, with_it, without in zip(TEXTS, (one, both), (none, one), strict=True)
        }
        if changed["prompt"] & changed["negative"]:
            msg = (
                "the pipeline encodes the quoted words of two texts together; such pipelines "
                "are not supported"
            )
            raise SearchError(msg)
        self.conditions = {source: names for source, names in changed.items() if names}
        return plain

    def encoded(
        self, run: _Run, request: Request, given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The conditions of a request, whether there are words in quotes or not."""
        conditions = run(request)
        if not self.conditions:
            return conditions
        negative = request.negative and TEXTS["negative"]
        others = run(replace(request, prompts=(TEXTS["prompt"],), negative=negative))
        for source, names in self.conditions.items():
            is_quoted = given[f"{source}{_INPUT}"].bool()
            conditions |= {
                n: torch.where(is_quoted, others[n], conditions[n]) for n in sorted(names)
            }
        return conditions
