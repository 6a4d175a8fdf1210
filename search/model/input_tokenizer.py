"""Tokenizers that answer with the inputs of a conditioner instead of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from search.core.cleaning import find_cleaned
from search.core.errors import SearchError
from search.core.prompt import PromptField
from search.model.failures import LONGEST
from search.model.fast_tokenizer import fast_tokenizer
from search.model.fixed_texts import NEGATIVE
from search.model.quoted_words import TEXTS, UNQUOTED, QuotedError, QuotedWords
from search.model.tokens import TokenizerStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.core.quotation import Quotation
    from search.model.fixed_texts import FixedTexts


@dataclass(frozen=True)
class Asked:
    """One call of a tokenizer for a text that the prompt is in.

    Attributes:
        tokenizer: its name in the pipeline.
        source: `prompt` or `negative`.
        length: to which it pads and cuts.
        template: what the pipeline has made of the prompt; see `find_cleaned`.
        special: whether special tokens are added.
        most: tokens that are read, the template's with them.
        multiple: see `PromptInput`.
        quotation: likewise.
        spelled: likewise.
    """

    tokenizer: str
    source: str
    length: int
    template: tuple[str, tuple[str, ...], str]
    special: bool
    most: int
    multiple: int = 0
    quotation: Quotation | None = None
    spelled: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Of the tokenizer, in a bundle."""
        return f"{self.tokenizer}-{'up-to-' if self.multiple else ''}{self.length}.json"

    def input_name(self, field: PromptField) -> str:
        """The conditioner's input that holds the answer."""
        return f"{self.source}_{field}{self.tokenizer.removeprefix('tokenizer')}"


_Found = tuple[str, tuple[str, tuple[str, ...], str]]
"""A source, and what the pipeline has made of its text."""
if TYPE_CHECKING:
    Answer = Callable[[Asked, PromptField], Tensor]


@dataclass
class Reading:
    """What is read of texts while the pipeline runs.

    Attributes:
        fixed: how texts of any length are made as long as the longest.
        written_out: tokenizer and source of texts in which the pipeline looks for placeholders.
        texts: all that are tokenised.
        masks: of texts of a fixed length, by source, `[1, T]`: 1 where there is a token.
        new: that of the text whose encoder is called next.
        is_empty: whether that text has no tokens.
        alone: the token that the encoder is given then.
        quoted: what is done with words in quotes.
    """

    fixed: FixedTexts | None
    written_out: set[tuple[str, str]] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    masks: dict[str, Tensor] = field(default_factory=dict)
    new: Tensor | None = None
    is_empty: bool = False
    alone: int = 0
    quoted: QuotedWords = field(default_factory=QuotedWords)

    def mask_of(self, ids: Tensor) -> Tensor | None:
        """The mask of the text that was tokenised last, if these are its tokens."""
        mask, self.new = self.new, None
        if self.is_empty and ids.shape == (1, 1):
            self.alone = int(ids)
        self.is_empty = False
        return mask if mask is not None and mask.shape == ids.shape else None


class InputTokenizer(TokenizerStandIn):
    """Answers with inputs for our texts.

    A pipeline that splits a text before it tokenises it looks for placeholders, to write them out.
    """

    def __init__(self, name: str, tokenizer: Any, answer: Answer, reading: Reading) -> None:
        super().__init__(name, tokenizer)
        self._answer, self._reading = answer, reading

    def tokenize(self, text: str, **options: Any) -> Any:
        """The tokenizer's own."""
        found = _template_of(text, self.name)
        if found is not None:
            self._reading.written_out.add((self.name, found[0]))
        return self.tokenizer.tokenize(text, **options)

    def __call__(
        self,
        text: str | list[str],
        *,
        padding: str | bool = False,
        max_length: int | None = None,
        truncation: bool = False,
        **options: Any,
    ) -> Any:
        """Answer with inputs for our texts, and with the tokenizer's own ids for any other."""
        [one] = [text] if isinstance(text, str) else text
        reading = self._reading
        reading.texts.append(one)
        found, quotation = _template_of(one, self.name), None
        if found is None:
            source = reading.quoted.source_of(one, self.name)
            if source is not None:
                found, quotation = (source, ("", (), "")), reading.quoted.quotation
        special = options.get("add_special_tokens", True)
        longest = max_length or self.tokenizer.model_max_length
        if reading.fixed is not None and reading.fixed.takes(padding, truncation=truncation):
            made = self._of_fixed_length(one, found, longest, special=special)
            is_row = isinstance(text, str) and options.get("return_tensors") is None
            return {n: made[n][0] for n in made} if is_row else made
        if found is None:
            return self.tokenizer(
                text=text, padding=padding, max_length=max_length, truncation=truncation, **options
            )
        if padding != "max_length":
            if truncation:
                msg = (
                    f"the {self.name} does not pad texts to a fixed length; such pipelines are "
                    "not supported"
                )
                raise SearchError(msg)
            if not padding and options.get("return_tensors") is None:
                hole = _Hole(*found, special=special)
                return {"input_ids": [hole] if isinstance(text, str) else [[hole]]}
            # Pipelines only warn then of texts that are too long.
            return _Encoded(lambda _: torch.zeros(1, 0, dtype=torch.int64))
        if longest > LONGEST:
            msg = f"the {self.name} is to pad texts to {longest:.0e} tokens"
            raise ValueError(msg)
        source, template = found
        asked = Asked(self.name, source, longest, template, special, longest, quotation=quotation)
        return _Encoded(lambda field: self._answer(asked, field))

    def pad(
        self, encoded: Any, *, max_length: int | None = None, padding: Any = True, **options: Any
    ) -> Any:
        """Answer where a pipeline pads what it has of a text in lists."""
        rows = encoded["input_ids"]
        if not any(isinstance(token, _Hole) for row in rows for token in row):
            return self.tokenizer.pad(encoded, max_length=max_length, padding=padding, **options)
        if padding != "max_length" or max_length is None or [len(row) for row in rows] != [1]:
            msg = (
                f"the {self.name} does not pad lists of tokens to a fixed length; such "
                "pipelines are not supported"
            )
            raise SearchError(msg)
        [[hole]] = rows
        spelled = self._reading.quoted.spelled
        asked = Asked(
            self.name,
            hole.source,
            max_length,
            hole.template,
            hole.special,
            max_length,
            spelled=spelled,
        )
        return _Encoded(lambda field: self._answer(asked, field))

    def _of_fixed_length(
        self, text: str, found: _Found | None, longest: int, *, special: bool
    ) -> _Encoded:
        """Answer where a text is made as long as the longest."""
        reading = self._reading
        assert reading.fixed is not None
        length = reading.fixed.lengths[self.name]
        source, template = found or (NEGATIVE, ("", (), ""))
        most = min(length, longest)
        asked = Asked(self.name, source, length, template, special, most, reading.fixed.multiple)
        if found is None:
            made = fast_tokenizer(self.tokenizer, asked, reading.fixed).encode(
                text, add_special_tokens=special
            )
            # An empty text is left empty, to see what the pipeline reads instead.
            reading.is_empty, length = not len(made), length if len(made) else 0
            ids = torch.tensor([made.ids + [0] * (length - len(made))], dtype=torch.int64)
            mask = (torch.arange(length) < len(made)).long()[None]
        else:
            ids, mask = (self._answer(asked, f) for f in (PromptField.IDS, PromptField.MASK))
        reading.new = mask
        if not reading.is_empty:
            reading.masks[source] = mask
        # What is padding is said to the encoder; the pipeline is to take all of them for its text.
        every = mask if reading.fixed.masked else (ids >= 0).long()
        return _Encoded(lambda field: ids if field is PromptField.IDS else every)


class _Hole(int):
    """A number in a list of token ids where those of one of our texts belong."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Zero."""
        return super().__new__(cls, 0)

    def __init__(
        self, source: str, template: tuple[str, tuple[str, ...], str], *, special: bool
    ) -> None:
        self.source, self.template, self.special = source, template, special


_POSITIONS = "position_ids"


class _Encoded(Mapping[str, Any]):
    """What a tokenizer returns: token ids and their mask, by key or by attribute.

    Without padding to a length, pipelines only warn of texts that are too long; this returns none.
    """

    _FILLS: ClassVar[dict[str, PromptField]] = {
        "input_ids": PromptField.IDS,
        "attention_mask": PromptField.MASK,
    }

    def __init__(self, find: Callable[[PromptField], Tensor]) -> None:
        self._find = find

    def __getitem__(self, name: str) -> Tensor:
        if name == _POSITIONS:
            # Those of the tokens; padding, which some tokenizers put before them, has the first.
            return (self._find(PromptField.MASK).cumsum(1) - 1).clamp(min=0)
        return self._find(self._FILLS[name])

    def __getattr__(self, name: str) -> Tensor:
        if name not in (*self._FILLS, _POSITIONS):
            raise AttributeError(name)
        return self[name]

    def to(self, *_: Any, **__: Any) -> _Encoded:
        """The same: what answers is where it is wanted."""
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._FILLS)

    def __len__(self) -> int:
        return len(self._FILLS)


def _template_of(text: str, name: str) -> _Found | None:
    """Which of our texts the pipeline has made `text` of, and how; None if it is another."""
    for source in TEXTS:
        for ours in (TEXTS[source], UNQUOTED[source]):
            found = find_cleaned(text, ours)
            if found is not None:
                return source, found
        if f"stepcarve {source}" in text.lower():
            if text in TEXTS[source]:
                raise QuotedError(name)
            msg = (
                f"the pipeline does more to the {source} than clean it and put it into a longer "
                f"text: it turns {TEXTS[source]!r} into {text!r}; such pipelines are not supported"
            )
            raise SearchError(msg)
    return None
