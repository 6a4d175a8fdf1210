"""How a pipeline's texts can be padded to the longest, found by running it.

`search/model/padding_trial.py` tries what is found.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.core.errors import SearchError
from search.model.body import Body
from search.model.encoding import conditions_of
from search.model.fixed_texts import (
    NEGATIVE,
    PROMPT,
    SOURCES,
    CurrentText,
    FixedTexts,
    TextAxis,
    encoders_masked,
)
from search.model.hidden_keys import HiddenKeys
from search.model.padding_trial import Trial
from search.model.recording import record_encoding
from search.model.removed import without_weights
from search.model.stand_in_weights import QuickLinear, with_stand_in_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.model.family import OpenedPipeline, Request

SHORT = {PROMPT: "stepcarve", NEGATIVE: "other"}
"""Texts that are not part of each other."""
LONGER = "stepcarve with a longer text, to see whether its length counts"
_PLACE = "_stepcarve_fixed_texts"


def fixed_texts_of(pipeline: OpenedPipeline, request: Request) -> FixedTexts | None:
    """How the texts of a pipeline are padded to the longest; None if it pads them itself.

    Raises:
        SearchError: its network gives other results for a padded text, however it is padded.
    """
    known: dict[Any, FixedTexts | None] = vars(pipeline.pipe).setdefault(_PLACE, {})
    settings = repr(sorted(pipeline.family.settings.items()))
    key = (settings, request.size, bool(request.is_guided), len(request.prompts), request.images)
    if key not in known:
        known[key] = _find(pipeline, request)
    return known[key]


def with_short_texts(request: Request) -> Request:
    """The request with short texts, none of which a pipeline treats as empty."""
    negative = SHORT[NEGATIVE] if request.is_guided else ""
    return replace(request, prompts=(SHORT[PROMPT],) * len(request.prompts), negative=negative)


def _find(pipeline: OpenedPipeline, request: Request) -> FixedTexts | None:
    if pipeline.family.classes(pipeline.pipe):
        return None
    finder = _Finder(pipeline, with_short_texts(request))
    texts = FixedTexts()
    finder.encode(texts)
    if finder.length_is_read(texts) or finder.length_varies(texts):
        texts = FixedTexts(everywhere=True)
        finder.encode(texts)
        if not texts.lengths or finder.length_is_read(texts) or finder.length_varies(texts):
            raise SearchError(finder.refusal)
    if not texts.lengths:
        return None
    texts = finder.filled_up(finder.as_read(texts))
    axes = finder.axes(texts)
    if axes:
        texts = finder.in_proportion(finder.filled_by_network(texts))
    return finder.tried(replace(texts, axes=axes)) if axes else texts


class _Finder:
    """Looks at a pipeline with short texts."""

    def __init__(self, pipeline: OpenedPipeline, request: Request) -> None:
        self._pipeline, self._request = pipeline, request

    @property
    def refusal(self) -> str:
        """Why such a pipeline cannot be compiled."""
        return (
            f"the {type(self._pipeline.denoiser).__name__} of a {self._pipeline.family.pipeline} "
            "gives other results for a padded text even where the padding is masked, but a graph "
            "has one text length; such pipelines are not supported"
        )

    def encode(
        self,
        texts: FixedTexts,
        mask_of: Callable[[CurrentText, Tensor], Tensor | None] = lambda *_: None,
        request: Request | None = None,
    ) -> dict[str, Tensor]:
        """The conditions; `mask_of` gives the mask `[B, T]` that a text's encoder gets for its tokens."""
        pipe, request = self._pipeline.pipe, request or self._request
        with ExitStack() as stack:
            current = stack.enter_context(texts.answered(pipe, request))

            def mask(ids: Tensor) -> Tensor | None:
                text, current.source = replace(current), None
                return None if text.source is None else mask_of(text, ids)

            def mark(mask: Tensor, made: Tensor) -> Tensor:
                return torch.ones_like(made).masked_fill(~mask[..., None].bool(), torch.nan)

            stack.enter_context(encoders_masked(pipe, self._pipeline.denoiser, mask, mark))
            return conditions_of(record_encoding(self._pipeline, request), None)

    def as_read(self, texts: FixedTexts) -> FixedTexts:
        """The texts, without the tokens that the pipeline drops at their end."""
        most = {
            name: bisect_left(range(length), True, key=partial(self._is_all, texts, name))
            for name, length in texts.lengths.items()
            if self._is_all(texts, name, length - 1) and not self._is_all(texts, name, 0)
        }
        if not most:
            return texts
        texts = replace(texts, most=most, lengths={})
        read: list[CurrentText] = []
        self.encode(texts, lambda text, _: read.append(text))
        if any(text.tokenizer in most and self._is_ended(text) for text in read):
            raise SearchError(self.refusal)
        return texts

    def _is_all(self, texts: FixedTexts, tokenizer: str, count: int) -> bool:
        """Whether the pipeline reads no more than the first `count` tokens of a text."""

        def mask_of(text: CurrentText, ids: Tensor) -> Tensor:
            behind = ids.shape[1] - count
            return _all_but(behind if text.tokenizer == tokenizer else 0, ids)

        return not any(each.isnan().any() for each in self.encode(texts, mask_of).values())

    def _is_ended(self, text: CurrentText) -> bool:
        """Whether a tokenizer ends a truncated text with a special token."""
        tokenize = partial(
            getattr(self._pipeline.pipe, text.tokenizer),
            text=LONGER,
            add_special_tokens=text.special,
        )
        whole = torch.as_tensor(tokenize()["input_ids"]).flatten()
        half = len(whole) // 2
        cut = torch.as_tensor(tokenize(truncation=True, max_length=half)["input_ids"]).flatten()
        return not torch.equal(cut, whole[:half])

    @property
    def _longer(self) -> Request:
        """The request with a longer text."""
        return replace(self._request, prompts=(LONGER,) * len(self._request.prompts))

    def length_varies(self, texts: FixedTexts) -> bool:
        """Whether the conditions' shapes depend on the length of a text."""
        short, long = self.encode(texts), self.encode(texts, request=self._longer)
        return any(short[name].shape != long[name].shape for name in short.keys() & long.keys())

    def length_is_read(self, texts: FixedTexts) -> bool:
        """Whether a step reads numbers that depend on the length of a text."""
        numbers = Body(self._pipeline, self._request, texts).numbers
        if not numbers:
            return False
        return Body(self._pipeline, self._longer, texts).numbers != numbers

    def filled_by_network(self, texts: FixedTexts) -> FixedTexts:
        """The texts, with the multiple of tokens to which the network fills up a text with tokens of its own."""
        whole = self._keys(texts, 0)

        def fewer(cut: int) -> int:
            keys = self._keys(texts, cut)
            return min((n - m for n, m in zip(whole, keys, strict=True) if n != m), default=0)

        # A cut below the pipeline's own multiple does not make a text shorter.
        few, many = texts.multiple, min(texts.lengths.values()) * 3 // 4
        if not whole or fewer(few) or many <= few:
            return texts
        while many - few > 1:
            between = (few + many) // 2
            few, many = (few, between) if fewer(between) else (between, many)
        found = fewer(many)
        if not found:
            return texts
        texts = replace(texts, filled=found, lengths={})
        self.encode(texts)
        return texts

    def in_proportion(self, texts: FixedTexts) -> FixedTexts:
        """The texts, cut to the length up to which every token adds as many keys as it does to a short text.

        Some networks summarise a text in tokens of their own, whose number rises in stages with its length.
        """
        room, step = texts.room, texts.multiple
        if texts.filled > 1 or room <= step:
            return texts
        short, longer = (self._keys(texts, cut) for cut in (room, room - step))

        def is_proportional(cut: int) -> bool:
            more, times = self._keys(texts, cut), (room - cut) // step
            return more == [k + (l - k) * times for k, l in zip(short, longer, strict=True)]

        if is_proportional(0):
            return texts
        cut = step * bisect_left(range(room // step), True, key=lambda n: is_proportional(n * step))
        if cut >= room:
            raise SearchError(self.refusal)
        most = {name: length - cut for name, length in texts.lengths.items()}
        texts = replace(texts, most=most, lengths={})
        self.encode(texts)
        return texts

    @cached_property
    def _networks(self) -> dict[str, nn.Module]:
        """The networks with stand-in weights, which compute quickly."""
        pipeline = self._pipeline
        return {n: with_stand_in_weights(without_weights(pipeline, n)) for n in pipeline.networks}

    def _keys(self, texts: FixedTexts, cut: int) -> list[int]:
        """How many keys each attention of a step has if texts are `cut` tokens shorter."""
        lengths: list[int] = []

        def note(_: int, key: Tensor) -> None:
            lengths.append(key.shape[-2])

        body = Body(self._pipeline, self._request, texts.shortened(cut))
        latents = torch.zeros(body.pictures, *body.latent_shape)
        parts = {n: with_stand_in_weights(part) for n, part in body.parts_around.items()}
        with torch.no_grad(), QuickLinear(), HiddenKeys(note):
            body(latents, torch.tensor(500.0), networks=self._networks, parts=parts)
        return lengths

    def filled_up(self, texts: FixedTexts) -> FixedTexts:
        """The texts, with the multiple of tokens to which the pipeline fills up a text."""
        whole = self.encode(texts)
        most = min(texts.lengths.values()) // 2

        def shrinks(cut: int) -> int:
            """How much shorter the conditions become if texts are `cut` tokens shorter."""
            less = self.encode(texts.shortened(cut))
            sizes = [
                (size, less[name].shape[axis])
                for name, condition in whole.items()
                for axis, size in enumerate(condition.shape)
            ]
            return min((size - new for size, new in sizes if new != size), default=0)

        if not shrinks(most):
            return texts
        multiple = next(filter(None, map(shrinks, range(1, most))), 1)
        if multiple == 1:
            return texts
        texts = replace(texts, multiple=multiple, lengths={})
        self.encode(texts)
        filler, leads = self._filler(texts.shortened(1))
        return replace(texts, filler=filler, leads=leads)

    def _filler(self, texts: FixedTexts) -> tuple[int, bool]:
        """The token that fills up a text that is one token short, and whether it stands before it."""
        seen: list[tuple[Tensor, Tensor]] = []
        pipe, request = self._pipeline.pipe, self._request
        with texts.answered(pipe, request) as current:

            def note(ids: Tensor) -> None:
                if current.ids is not None and ids.shape[1] == current.ids.shape[1] + 1:
                    seen.append((ids[0], current.ids[0]))

            with encoders_masked(pipe, self._pipeline.denoiser, note, lambda _, made: made):
                record_encoding(self._pipeline, request)
        for given, own in seen:
            if torch.equal(given[1:], own):
                return int(given[0]), True
            if torch.equal(given[:-1], own):
                return int(given[-1]), False
        raise SearchError(self.refusal)

    def axes(self, texts: FixedTexts) -> dict[str, TextAxis]:
        """The axes of the conditions that run over the tokens of a text."""
        count = texts.multiple
        cut = self.encode(texts.shortened(count), lambda _, ids: torch.ones_like(ids))
        found: dict[str, TextAxis] = {}
        for source in SOURCES:

            def mask_of(text: CurrentText, ids: Tensor, source: str = source) -> Tensor:
                return _all_but(count if text.source == source else 0, ids)

            for name, marked in self.encode(texts, mask_of).items():
                if not marked.isnan().any():
                    continue
                axis = _padded_axis(marked, count)
                if axis is None:
                    raise SearchError(self.refusal)
                size = marked.shape[axis]
                if size - cut[name].shape[axis] == count:
                    found[name] = TextAxis(axis, source)
                elif cut[name].narrow(axis, size - count, count).any():
                    raise SearchError(self.refusal)
        return found

    def tried(self, texts: FixedTexts) -> FixedTexts:
        """The texts, with the padding placed so that the network predicts the same as without it.

        It is tried with texts a little shorter than the longest, and with the shortest.
        """
        step = texts.multiple * texts.filled
        trial = Trial(self._pipeline, self._request, texts, step)
        for masked, in_front in ((False, False), (False, True), (True, False)):
            tried = replace(texts, masked=masked, in_front=in_front)
            found = trial.of(tried)
            if found is None:
                continue
            if texts.room <= step:
                return found
            shortest = Trial(self._pipeline, self._request, texts, texts.room).of(tried)
            if shortest is not None and replace(shortest, cut=found.cut) == found:
                return found
        raise SearchError(self.refusal)


def _padded_axis(marked: Tensor, count: int) -> int | None:
    """The axis of which exactly the last `count` places are marked by NaN."""
    for axis, size in enumerate(marked.shape):
        found = marked.isnan().movedim(axis, 0).flatten(1)
        rows = torch.arange(size) >= size - count
        if torch.equal(found.any(1), rows) and torch.equal(found.all(1), rows):
            return axis
    return None


def _all_but(count: int, ids: Tensor) -> Tensor:
    """A mask `[B, T]` of token ids that hides the last `count`."""
    return (torch.arange(ids.shape[1]) < ids.shape[1] - count).long().expand_as(ids)
