"""A step with padded texts must predict what it predicts for the texts as they are.

Random numbers take the place of weights and of encoded texts.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.model.body import Body
from search.model.fixed_texts import SOURCES, Filling, FixedTexts, Length, Padding
from search.model.hidden_keys import ChoicesChanged, HiddenKeys, counts_changed
from search.model.removed import without_weights
from search.model.stand_in_weights import QuickLinear, with_stand_in_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.model.family import OpenedPipeline, Request

_CLOSE = 2e-3
"""How much predictions may differ, relatively: rotary positions in half precision are rounded."""


class Trial:
    """Predicts with texts that are `count` tokens shorter than the longest, as they are and padded."""

    def __init__(
        self, pipeline: OpenedPipeline, request: Request, texts: FixedTexts, count: int
    ) -> None:
        self._pipeline, self._request = pipeline, request
        self._count = count
        # Of these, the network fills in some more.
        self._filled = texts.filled // 3
        self._networks = {
            n: with_stand_in_weights(without_weights(pipeline, n)) for n in pipeline.networks
        }
        body = Body(pipeline, request, texts.shortened(self._count + self._filled))
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
        full, found = self._made(texts), list[Length]()
        for source in SOURCES if full else ():
            short = self._made(replace(texts, cut={source: self._count}))
            for number, (whole, cut) in enumerate(zip(full, short, strict=False)):
                if whole.shape != cut.shape:
                    continue
                less = (whole - cut).flatten() == self._count
                if less.any():
                    found.append(Length(number, tuple(less.nonzero().flatten().tolist()), source))
        return tuple(found)

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
        if texts.masked and texts.filled > 1:
            return None
        cut = texts.shortened(self._count).cut if texts.masked else {}
        counts, fills = ((), ()) if texts.masked else (self._counts, self._fills)
        texts = replace(texts, counts=counts, fills=fills)
        body = Body(self._pipeline, self._request, replace(texts, cut=cut))
        try:
            keys = () if texts.masked else self._keys(body, texts)
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
