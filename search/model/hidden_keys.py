"""Attention that does not see the padding of a text, and lengths of texts without it."""

from __future__ import annotations

import inspect
import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search.core.errors import SearchError
from search.model.fixed_texts import padding_name
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from search.model.fixed_texts import FixedTexts, Padding


class HiddenKeys(TorchFunctionMode):
    """While open, scaled dot product attention leaves out keys.

    Args:
        hidden: which, `[B, K]` or `[1, K]`, by the number of the attention and its keys `[B, ..., K, D]`;
            None leaves it alone.
    """

    def __init__(self, hidden: Callable[[int, Tensor], Tensor | None]) -> None:
        super().__init__()
        self._hidden, self._number = hidden, -1

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self._number += 1
        given = _ATTENTION.bind(*args, **kwargs).arguments
        key = given["key"]
        hidden = self._hidden(self._number, key)
        if hidden is None:
            return func(*args, **kwargs)
        if given.get("is_causal"):
            msg = "the denoiser's attention is causal over a text of any length; that is not supported"
            raise SearchError(msg)
        across = hidden.reshape(len(hidden), *[1] * (key.ndim - 2), -1)
        given["attn_mask"] = _without(given.get("attn_mask"), across)
        for name in ("key", "value"):
            given[name] = self.cleaned(given[name], hidden)
        return func(**given)

    def cleaned(self, tensor: Tensor, hidden: Tensor) -> Tensor:
        """Keys or values without what attention must not see."""
        del hidden
        return tensor


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
) -> None:
    """The parameters of torch's own."""


_WHERE = 3
"""Arguments of a choice: condition, and two tensors."""
_ATTENTION = inspect.signature(_attention)


def _without(mask: Tensor | None, hidden: Tensor) -> Tensor:
    """A mask of attention that leaves out the hidden keys too."""
    if mask is None:
        return ~hidden
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return mask.masked_fill(hidden, -torch.inf)


@contextmanager
def without_padding(texts: FixedTexts, conditions: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, attention does not see the padding that the conditions tell of, and lengths are without it."""

    def counted(number: int, made: Tensor) -> Tensor:
        for length in texts.counts:
            if length.number == number:
                places = [place in length.places for place in range(made.numel())]
                unseen = texts.unseen(conditions[padding_name(length.source)])
                made = made - (torch.tensor(places).reshape(made.shape) * unseen).to(made.dtype)
        return made

    def filled(number: int, chosen: Tensor) -> Tensor:
        for each in texts.fills:
            if each.number == number:
                padding = conditions[padding_name(each.source)]
                unseen = texts.unseen(padding)
                end = each.end - (0 if texts.in_front else unseen)
                places = torch.arange(len(chosen))
                own = (places >= end - (padding - unseen)) & (places < end)
                chosen = chosen | own.reshape(-1, *[1] * (chosen.ndim - 1))
        return chosen

    with counts_changed(counted), ChoicesChanged(filled), _hiding(texts, conditions):
        yield


class ChoicesChanged(TorchFunctionMode):
    """While open, the conditions of `torch.where` are `change(which call it is, the condition)`."""

    def __init__(self, change: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self._change, self._number = change, -1

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        del types
        if func is torch.where and len(args) == _WHERE and args[0].ndim:
            self._number += 1
            args = (self._change(self._number, args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def counts_changed(change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
    """While open, tensors made of whole numbers are `change(which call it is, the tensor)`.

    They are made by `torch.tensor` of a list, and by `torch.arange` from one number to another.
    """
    tensor, arange, calls = torch.tensor, torch.arange, itertools.count()

    def make_tensor(data: Any, **options: Any) -> Tensor:
        made = tensor(data, **options)
        is_counts = isinstance(data, list) and data and type(data[0]) is int
        return change(next(calls), made) if is_counts else made

    def make_range(*numbers: Any, **options: Any) -> Tensor:
        made = arange(*numbers, **options)
        is_counts = len(numbers) > 1 and all(type(number) is int for number in numbers)
        return change(next(calls), made) if is_counts else made

    with replaced(torch, "tensor", make_tensor), replaced(torch, "arange", make_range):
        yield


def _hiding(texts: FixedTexts, conditions: Mapping[str, Tensor]) -> HiddenKeys:
    """Attention that does not see the padding that the conditions tell of."""

    def unseen(source: str) -> Tensor:
        return texts.unseen(conditions[padding_name(source)])

    def hidden(number: int, key: Tensor) -> Tensor | None:
        every = texts.keys[number] if number < len(texts.keys) else ()
        found = [_among(key.shape[-2], each, unseen(each.source), texts.in_front) for each in every]
        return torch.stack(found).any(0) if len(found) > 1 else next(iter(found), None)

    return HiddenKeys(hidden)


def _among(keys: int, padding: Padding, count: Tensor, in_front: bool) -> Tensor:
    """Which of the keys are `count` tokens of padding, `[B, K]`; `[1, K]` if all rows are alike."""
    ends = torch.as_tensor(padding.ends if len(set(padding.ends)) > 1 else padding.ends[:1])
    places, ends = torch.arange(keys), ends[:, None]
    if in_front:
        return (ends >= 0) & (places >= ends) & (places < ends + count)
    return (places >= ends - count) & (places < ends)
