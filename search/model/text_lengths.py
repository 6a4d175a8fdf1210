"""How a pipeline's texts can be made as long as the longest, found out by running it.

What is found is tried: a step with padded texts must predict what it predicts for the texts as they are,
with random numbers in the place of weights and encoded texts.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from search.core.errors import SearchError
from search.model.body import Body
from search.model.encoding import conditions_of
from search.model.fixed_texts import (
    NEGATIVE,
    PROMPT,
    SOURCES,
    Filling,
    FixedTexts,
    Length,
    Padding,
    TextAxis,
    encoders_told,
)
from search.model.hidden_keys import ChoicesChanged, HiddenKeys, counts_changed
from search.model.padded_text import padded_text_of
from search.model.recording import record_encoding
from search.model.removed import build_denoiser
from search.model.stand_in_weights import QuickLinear, with_stand_in_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from search.model.family import OpenedPipeline, Request

SHORT = {PROMPT: "stepcarve", NEGATIVE: "other"}
"""Texts that are not part of each other."""
LONGER = "stepcarve with a longer text, to see whether its length counts"
_CLOSE = 2e-3
"""How much predictions may differ, relatively: rotary positions in half precision are rounded."""
_PLACE = "_stepcarve_fixed_texts"


def fixed_texts_of(pipeline: OpenedPipeline, request: Request) -> FixedTexts | None:
    """How the texts of a pipeline are made as long as the longest; None if it pads them itself.

    Raises:
        SearchError: its network computes otherwise for texts of another length, however they are padded.
    """
    known: dict[Any, FixedTexts | None] = vars(pipeline.pipe).setdefault(_PLACE, {})
    settings = repr(sorted(pipeline.family.settings.items()))
    key = (settings, request.size, bool(request.is_guided), len(request.prompts), request.images)
    if key not in known:
        known[key] = _find(pipeline, request)
    return known[key]


def with_short_texts(request: Request) -> Request:
    """The same of texts that no pipeline takes for none."""
    negative = SHORT[NEGATIVE] if request.is_guided else ""
    return replace(request, prompts=(SHORT[PROMPT],) * len(request.prompts), negative=negative)


def _find(pipeline: OpenedPipeline, request: Request) -> FixedTexts | None:
    if padded_text_of(pipeline.pipe) is not None or pipeline.family.classes(pipeline.pipe):
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
    texts = finder.filled_up(texts)
    axes = finder.axes(texts)
    if axes:
        texts = finder.filled_by_network(texts)
    return finder.tried(replace(texts, axes=axes)) if axes else texts


def built(pipeline: OpenedPipeline, name: str) -> nn.Module:
    """A network of a pipeline without any weights."""
    network = pipeline.networks[name]
    if any(p.is_meta for p in network.parameters()):
        return cast("nn.Module", network)
    cls, config = type(network), network.config
    with init_empty_weights(include_buffers=False):
        return build_denoiser(cls, config, pipeline.family)


class _Finder:
    """Looks at a pipeline with short texts."""

    def __init__(self, pipeline: OpenedPipeline, request: Request) -> None:
        self._pipeline, self._request = pipeline, request

    @property
    def refusal(self) -> str:
        """Why such a pipeline cannot be compiled."""
        return (
            f"the {type(self._pipeline.denoiser).__name__} of a {self._pipeline.family.pipeline} computes "
            "otherwise for texts of another length, even if it does not attend to padding; a graph is of "
            "one length, so such pipelines are not supported"
        )

    def encode(
        self,
        texts: FixedTexts,
        told: Callable[[str, Tensor], Tensor | None] = lambda *_: None,
        request: Request | None = None,
    ) -> dict[str, Tensor]:
        """The conditions; `told` gives the mask of a source's tokens `[B, T]` that its encoder is told."""
        pipe, request = self._pipeline.pipe, request or self._request
        with ExitStack() as stack:
            current = stack.enter_context(texts.answered(pipe, request))

            def mask(ids: Tensor) -> Tensor | None:
                source, current.source = current.source, None
                return None if source is None else told(source, ids)

            def mark(mask: Tensor, made: Tensor) -> Tensor:
                return torch.ones_like(made).masked_fill(~mask[..., None].bool(), torch.nan)

            stack.enter_context(encoders_told(pipe, self._pipeline.denoiser, mask, mark))
            return conditions_of(record_encoding(self._pipeline, request), None)

    @property
    def _longer(self) -> Request:
        """With a longer text."""
        return replace(self._request, prompts=(LONGER,) * len(self._request.prompts))

    def length_varies(self, texts: FixedTexts) -> bool:
        """Whether the conditions are as long as their text."""
        short, long = self.encode(texts), self.encode(texts, request=self._longer)
        return any(short[name].shape != long[name].shape for name in short.keys() & long.keys())

    def length_is_read(self, texts: FixedTexts) -> bool:
        """Whether a step reads numbers that depend on the length of a text."""
        numbers = Body(self._pipeline, self._request, texts).numbers
        if not numbers:
            return False
        return Body(self._pipeline, self._longer, texts).numbers != numbers

    def filled_by_network(self, texts: FixedTexts) -> FixedTexts:
        """The same, with the multiple of tokens that the network fills up a text to with its own."""
        pipeline = self._pipeline
        networks = {n: with_stand_in_weights(built(pipeline, n)) for n in pipeline.networks}
        whole = self._keys(texts, networks, 0)

        def fewer(cut: int) -> int:
            keys = self._keys(texts, networks, cut)
            return min((n - m for n, m in zip(whole, keys, strict=True) if n != m), default=0)

        few, many = 1, min(texts.lengths.values()) * 3 // 4
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

    def _keys(self, texts: FixedTexts, networks: Mapping[str, nn.Module], cut: int) -> list[int]:
        """How many keys each attention of a step has, with shorter texts."""
        lengths: list[int] = []

        def note(_: int, key: Tensor) -> None:
            lengths.append(key.shape[-2])

        body = Body(self._pipeline, self._request, replace(texts, cut=_all(cut)))
        latents = torch.zeros(body.pictures, *body.latent_shape)
        parts = {n: with_stand_in_weights(part) for n, part in body.parts_around.items()}
        with torch.no_grad(), QuickLinear(), HiddenKeys(note):
            body(latents, torch.tensor(500.0), networks=networks, parts=parts)
        return lengths

    def filled_up(self, texts: FixedTexts) -> FixedTexts:
        """The same, with the multiple of tokens that the pipeline fills up a text to."""
        whole = self.encode(texts)
        most = min(texts.lengths.values()) // 2

        def shrinks(cut: int) -> int:
            """By how much the conditions become shorter if texts do by `cut` tokens."""
            less = self.encode(replace(texts, cut=_all(cut)))
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
        filler, leads = self._filler(replace(texts, cut=_all(1)))
        return replace(texts, filler=filler, leads=leads)

    def _filler(self, texts: FixedTexts) -> tuple[int, bool]:
        """The token that fills up a text that is one token short, and whether it stands before it."""
        seen: list[tuple[Tensor, Tensor]] = []
        pipe, request = self._pipeline.pipe, self._request
        with texts.answered(pipe, request) as current:

            def note(ids: Tensor) -> None:
                if current.ids is not None and ids.shape[1] == current.ids.shape[1] + 1:
                    seen.append((ids[0], current.ids[0]))

            with encoders_told(pipe, self._pipeline.denoiser, note, lambda _, made: made):
                record_encoding(self._pipeline, request)
        for given, own in seen:
            if torch.equal(given[1:], own):
                return int(given[0]), True
            if torch.equal(given[:-1], own):
                return int(given[-1]), False
        raise SearchError(self.refusal)

    def axes(self, texts: FixedTexts) -> dict[str, TextAxis]:
        """Where the conditions have the tokens of a text, as far as their length depends on it."""
        count = texts.multiple
        cut = self.encode(replace(texts, cut=_all(count)), lambda _, ids: torch.ones_like(ids))
        found: dict[str, TextAxis] = {}
        for source in SOURCES:

            def told(of: str, ids: Tensor, source: str = source) -> Tensor:
                mask = torch.ones_like(ids)
                mask[:, ids.shape[1] - count * (of == source) :] = 0
                return mask

            for name, marked in self.encode(texts, told).items():
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
        """The same with the padding where the network predicts the same as without it."""
        trial = _Trial(self._pipeline, self._request, texts)
        for told, in_front in ((False, False), (False, True), (True, False)):
            found = trial.of(replace(texts, told=told, in_front=in_front))
            if found is not None:
                return found
        raise SearchError(self.refusal)


class _Trial:
    """Predicts with texts as they are, and padded."""

    def __init__(self, pipeline: OpenedPipeline, request: Request, texts: FixedTexts) -> None:
        self._pipeline, self._request = pipeline, request
        self._count = texts.multiple * texts.filled
        # Of these, the network fills in some more.
        self._filled = texts.filled // 3
        self._networks = {n: with_stand_in_weights(built(pipeline, n)) for n in pipeline.networks}
        body = Body(pipeline, request, replace(texts, cut=_all(self._count + self._filled)))
        self._parts = {n: with_stand_in_weights(part) for n, part in body.parts_around.items()}
        generator = torch.Generator().manual_seed(0)
        self._latents = torch.randn(body.pictures, *body.latent_shape, generator=generator)
        self._conditions = {
            name: torch.randn(body.conditions[name].shape, generator=generator)
            for name in texts.axes
        }
        self._wanted = self._predicted(body, self._conditions)
        self._counts = self._lengths(texts)
        self._fills = self._fillings(texts)

    def _lengths(self, texts: FixedTexts) -> tuple[Length, ...]:
        """The lengths of texts that a step makes tensors of: those that are less if a text is cut."""
        full = self._made(texts)
        return tuple(
            Length(number, place, source)
            for source in (SOURCES if full else ())
            for number, (whole, cut) in enumerate(
                zip(full, self._made(replace(texts, cut={source: self._count})), strict=False)
            )
            if whole.shape == cut.shape
            for place, less in enumerate((whole - cut).flatten().tolist())
            if less == self._count
        )

    def _fillings(self, texts: FixedTexts) -> tuple[Filling, ...]:
        """Where the network fills up a text: what is chosen otherwise if a text is cut by few tokens."""
        if texts.filled == 1:
            return ()
        whole, found = self._chosen(texts), list[Filling]()
        for source in SOURCES:
            cut = self._chosen(replace(texts, cut={source: self._filled}))
            for number, (before, after) in enumerate(zip(whole, cut, strict=False)):
                if before.shape != after.shape:
                    continue
                rows = (after & ~before).flatten(1).any(1).nonzero().flatten().tolist()
                if rows and rows == list(range(rows[0], rows[0] + self._filled)):
                    found.append(Filling(number, source, rows[-1] + 1))
        return tuple(found)

    def _chosen(self, texts: FixedTexts) -> list[Tensor]:
        """The conditions of the choices in a step."""
        chosen: list[Tensor] = []

        def note(number: int, condition: Tensor) -> Tensor:
            del number
            chosen.append(condition)
            return condition

        body = Body(self._pipeline, self._request, texts)
        with ChoicesChanged(note):
            self._predicted(body, {})
        return chosen

    def _made(self, texts: FixedTexts) -> list[Tensor]:
        """The tensors that a step makes of whole numbers."""
        made: list[Tensor] = []

        def note(number: int, tensor: Tensor) -> Tensor:
            del number
            made.append(tensor)
            return tensor

        body = Body(self._pipeline, self._request, texts)
        with counts_changed(note):
            self._predicted(body, {})
        return made

    def of(self, texts: FixedTexts) -> FixedTexts | None:
        """The same with the keys that attention must not see; None if the prediction is another."""
        if texts.told and texts.filled > 1:
            return None
        cut = _all(self._count) if texts.told else {}
        counts, fills = ((), ()) if texts.told else (self._counts, self._fills)
        texts = replace(texts, counts=counts, fills=fills)
        body = Body(self._pipeline, self._request, replace(texts, cut=cut))
        try:
            keys = () if texts.told else self._keys(body, texts)
            if keys is None:
                return None
            padded = self._padded(texts, SOURCES, 1.0)
            padding = {
                name: torch.full((1,), self._count + self._filled)
                for name in replace(texts, keys=keys).inputs
            }
            body = Body(self._pipeline, self._request, replace(texts, keys=keys, cut=cut))
            found = self._predicted(body, padded | padding)
        except (RuntimeError, IndexError, ValueError):
            return None  # what is not made for such lengths
        off = (found - self._wanted).norm() / self._wanted.norm()
        return replace(texts, keys=keys, cut=cut) if off < _CLOSE else None

    def _padded(
        self, texts: FixedTexts, sources: tuple[str, ...], value: float
    ) -> dict[str, Tensor]:
        """The encoded texts with padding of one value; of other sources, of 1."""
        padded = {}
        for name, (axis, source) in texts.axes.items():
            text = self._conditions[name]
            shape = [*text.shape[:axis], self._count, *text.shape[axis + 1 :]]
            filling = torch.full(shape, value if source in sources else 1.0)
            filled = torch.ones([*text.shape[:axis], self._filled, *text.shape[axis + 1 :]])
            parts = [filling, text, filled] if texts.in_front else [text, filled, filling]
            padded[name] = torch.cat(parts, axis)
        return padded

    def _keys(self, body: Body, texts: FixedTexts) -> tuple[tuple[Padding, ...], ...] | None:
        """Where each attention has padding, followed through the denoiser as what is no number."""
        found: list[list[Padding]] = []
        for source in sorted({axis.source for axis in texts.axes.values()}):
            seen: list[Tensor] = []
            padded = self._padded(texts, (source,), torch.nan)
            made = self._predicted(body, padded, _Followed(seen))
            ends = [_ends(hidden, self._count, texts.in_front) for hidden in seen]
            if made.isnan().any() or None in ends:
                return None
            found = found or [[] for _ in ends]
            for keys, each in zip(found, ends, strict=True):
                if each is not None and max(each) >= 0:
                    keys.append(Padding(source, each))
        return tuple(map(tuple, found))

    def _predicted(
        self, body: Body, conditions: Mapping[str, Tensor], mode: HiddenKeys | None = None
    ) -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(QuickLinear())
            if mode is not None:
                stack.enter_context(mode)
            return body(
                self._latents,
                torch.tensor(500.0),
                conditions={**body.conditions, **conditions},
                networks=self._networks,
                parts=self._parts,
            )


class _Followed(HiddenKeys):
    """Attention that leaves out the keys that are no numbers, and notes which."""

    def __init__(self, seen: list[Tensor]) -> None:
        def hidden(number: int, key: Tensor) -> Tensor:
            del number
            found = key.isnan().any(-1)
            found = found.flatten(1, -2).any(1) if found.ndim > 2 else found
            seen.append(found)
            return found

        super().__init__(hidden)

    def cleaned(self, tensor: Tensor, hidden: Tensor) -> Tensor:
        """The same with numbers in these places."""
        return tensor.masked_fill(hidden.reshape(len(hidden), *[1] * (tensor.ndim - 3), -1, 1), 0.0)


def _ends(hidden: Tensor, count: int, in_front: bool) -> tuple[int, ...] | None:
    """Per row, where `count` hidden keys end, or begin if they are in front; None if they are scattered."""
    ends = []
    for row in hidden:
        places = row.nonzero().flatten().tolist()
        if places and places != list(range(places[0], places[0] + count)):
            return None
        ends.append(-1 if not places else places[0] if in_front else places[-1] + 1)
    return tuple(ends)


def _padded_axis(marked: Tensor, count: int) -> int | None:
    """The axis whose last `count` places alone are marked, as no numbers."""
    for axis, size in enumerate(marked.shape):
        found = marked.isnan().movedim(axis, 0).flatten(1)
        rows = torch.arange(size) >= size - count
        if torch.equal(found.any(1), rows) and torch.equal(found.all(1), rows):
            return axis
    return None


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys((PROMPT, NEGATIVE), count)
